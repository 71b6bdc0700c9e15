"""Which trainer a study runs: ours, or a user's own (`--trainer package.module:Class`) behind the same four methods.

The protocol, as `detector.trainer.Trainer` has it:
    Trainer(config, data, seed, device)    config: DetectorConfig; data: detector.data.batches.TrainingData; device: str or None
    .step() -> EpochResult                 trains the next epoch and evaluates it; raises DivergedError
    .state_dict() -> dict                  tensors and plain values: all that going on needs
    .load_state_dict(state)                goes on from there as if nothing had happened
`python -m search.check_trainer` tries it on a trainer of your own.
"""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from search.options import StudyError

if TYPE_CHECKING:
    from detector.trainer import EpochResult

METHODS = ("step", "state_dict", "load_state_dict")


def trainer_class(name: str) -> Any:
    """The class that `package.module:Class` names; ours for "".

    Raises: StudyError where it cannot be imported or has not the protocol's methods.
    """
    if not name:
        from detector.trainer import Trainer

        return Trainer
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise StudyError(f"--trainer must be package.module:Class, got {name!r}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a user's module raises when it is run
        told = f"{type(error).__name__}: {error}"
        raise StudyError(f"--trainer {name}: must be importable from here; importing it said: {told}") from None
    missing = [method for method in METHODS if not callable(getattr(found, method, None))]
    if missing:
        raise StudyError(f"--trainer {name}: must have the methods {', '.join(METHODS)}; it lacks {', '.join(missing)}")
    return found


def make_trainer(
    name: str, config: Any, data: Any, seed: int, device: str | None, official_eval: bool, micro_batch: int | None
) -> Any:
    """A trainer with `history`, `epoch` and `detections`, whoever wrote it."""
    kind = trainer_class(name)
    if not name:
        return kind(config, data, seed, device, official_eval, micro_batch)
    return Guest(kind(config, data, seed, device))


class Guest:
    """A user's trainer with what a leg asks for beyond the four methods."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.history: list[EpochResult] = []

    @property
    def epoch(self) -> int:
        """Epochs trained so far."""
        return len(self.history)

    @property
    def detections(self) -> list[dict[str, Any]]:
        """COCO rows of the last evaluation, where the trainer keeps them."""
        return list(getattr(self.inner, "detections", []))

    def step(self) -> EpochResult:
        """The next epoch, by the user's trainer."""
        result: EpochResult = self.inner.step()
        if result.epoch != self.epoch + 1:
            raise ValueError(f"step() must return epoch {self.epoch + 1}, it returned epoch {result.epoch}")
        self.history.append(result)
        return result

    def state_dict(self) -> dict[str, Any]:
        """The user's state with the results so far."""
        from detector.checkpoint import CHECKPOINT_FORMAT

        history = [row.to_dict() for row in self.history]
        return {"format": CHECKPOINT_FORMAT, "guest": self.inner.state_dict(), "history": history}

    def load_state_dict(self, state: dict[str, Any], longer_schedule: bool = False) -> None:
        """Hands the user's state back."""
        from detector.trainer import EpochResult

        self.inner.load_state_dict(state["guest"])
        known = {field.name for field in fields(EpochResult)}
        self.history = [EpochResult(**{k: v for k, v in row.items() if k in known}) for row in state["history"]]
