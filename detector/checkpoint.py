"""Checkpoints: tensors and plain values in one file, which a crash leaves whole; those of earlier versions are read too."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from detector.config import ConfigError, DetectorConfig
from detector.model.detector import Detector

CHECKPOINT_FORMAT = 1


def save_checkpoint(state: dict[str, Any], path: Path, keep_previous: bool = True) -> None:
    """Writes a checkpoint so that a crash leaves the old or the new one, never half; the old one may be kept beside it.

    Raises: OSError, as of a full disk; what was half written takes no room then.
    """
    unfinished = path.with_suffix(".unfinished")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
    except (OSError, RuntimeError) as error:
        with suppress(OSError):  # what went wrong first is what is told
            unfinished.unlink()
        if isinstance(error.__context__, OSError):  # torch closes its file and says of that alone that it failed
            raise error.__context__ from None
        raise
    if keep_previous and path.exists():
        path.replace(previous_checkpoint(path))
    unfinished.replace(path)


def save_weights(state: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint to predict from or to start from, a third of the size: without the optimizer's state."""
    save_checkpoint({**state, "optimizer": None}, path, keep_previous=False)


def previous_checkpoint(path: Path) -> Path:
    """Where `save_checkpoint` leaves the checkpoint before the newest."""
    return path.with_suffix(".previous.pt")


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint at `path`, or None. No code is unpickled.

    A damaged one is removed, so that the next save does not put it in the place of the good one before it.
    """
    for candidate in (path, previous_checkpoint(path)):
        if candidate.is_file():
            try:
                with zipfile.ZipFile(candidate) as archive:
                    damaged = archive.testzip()  # torch.load itself does not look at the checksums
                state = None if damaged else torch.load(candidate, map_location="cpu", weights_only=True)
            except Exception:  # torn or foreign: torch and zipfile raise many kinds for it
                state = None
            if isinstance(state, dict) and state.get("format") == CHECKPOINT_FORMAT:
                return state
            if state is None and candidate == path and previous_checkpoint(path).is_file():
                path.unlink()
    return None


def check_same(
    state: Mapping[str, Any], config: DetectorConfig, seed: int, fingerprint: str, longer_schedule: bool
) -> None:
    """Raises: ConfigError where a checkpoint is of another config, seed or dataset; equal configs may be of two versions.

    `longer_schedule`: schedule_epochs may be more than the checkpoint's.
    """
    theirs = DetectorConfig.from_record(state["config"])
    if longer_schedule:
        theirs = theirs.with_values({"schedule_epochs": config.schedule_epochs})
    if theirs.hash() != config.hash():
        mine, other = config.active_dict(), theirs.active_dict()
        names = [name for name in {**mine, **other} if mine.get(name) != other.get(name)]
        told = ", ".join(f"{name} {other.get(name)!r}, this has {mine.get(name)!r}" for name in names)
        raise ConfigError(f"a checkpoint goes on with its own config; it has {told}")
    for name, value in (("seed", seed), ("fingerprint", fingerprint)):
        if state.get(name) != value:
            raise ConfigError(
                f"a checkpoint goes on with its own {name}; it has {state.get(name)!r}, this is {value!r}"
            )


def optimizer_state(state: Mapping[str, Any], model: Detector, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's part of a checkpoint in today's groups.

    Format 1 until 2026-11 had two groups whatever the part, and decayed a BiFPN's fusion weights: its parameters stood in
    another order there, and its groups held no `lr_factor`.
    """
    saved: dict[str, Any] = state["optimizer"]
    if all("lr_factor" in group for group in saved["param_groups"]):
        return saved
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    before = [name for name, p in trained if p.ndim > 1] + [name for name, p in trained if p.ndim <= 1]
    name_of = {id(p): name for name, p in trained}
    now = [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(before) == sorted(now)
    kept = {
        place: saved["state"][before.index(name)]
        for place, name in enumerate(now)
        if before.index(name) in saved["state"]
    }
    return {"state": kept, "param_groups": optimizer.state_dict()["param_groups"]}
