"""Where a detector starts: pretrained weights into its trunk or the whole of it, and what was loaded, fresh or unused.

`load_start` reads what a config's `pretrained` names: ImageNet weights of the trunk, torchvision's RetinaNet trained on COCO, or
a file (a state_dict of timm's or torchvision's, a checkpoint of ours). An output layer of another shape starts fresh; the
classifier is kept only where class names agree. Everything that reads a checkpoint of ours takes `evaluated_weights`.

Shapes: A anchors a cell, K classes, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from detector.config import ConfigError, DetectorConfig, first_line
from detector.config_rules import OWN_TRUNKS
from detector.identity import WEIGHTS_BY_NAME, digest_of
from detector.model.backbones.resnet import FRESH_BLOCKS
from detector.model.backbones.timm_names import by_timm_names
from detector.model.detector import Detector
from detector.model.torchvision_names import COCO_CLASSES, as_ours, is_torchvision_detector, without_eps
from detector.weights import (
    COCO_V1_DIGITS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Statistics,
    check_content,
    coco_state,
    coco_version,
    imagenet_state,
    input_statistics,
)

State = Mapping[str, Tensor]
CLASSIFIER = "head.classification."
OUTPUTS = (".output.weight", ".output.bias")  # of the heads' last convolutions
COUNTER = "num_batches_tracked"


@dataclass
class Start:
    """What a detector was started from."""

    loaded: int = 0  # tensors
    fresh: list[str] = field(default_factory=list)  # tensors that keep their random start
    unused: list[str] = field(default_factory=list)  # tensors of the file that this detector has no place for
    classes: list[str] = field(default_factory=list)  # whose classifier was kept
    statistics: Statistics | None = None  # of the weights' own images; None: those of the training images

    def describe(self) -> str:
        """One line for people."""
        kept = f"; the classifier of {', '.join(self.classes[:6])}{' ..' * (len(self.classes) > 6)}" * bool(
            self.classes
        )
        return (
            f"{self.loaded} tensors loaded{kept}; {len(self.fresh)} fresh{_parts(self.fresh)}; "
            f"{len(self.unused)} unused{_parts(self.unused)}"
        )


def load_start(
    model: Detector, config: DetectorConfig, class_names: Sequence[str], tell: Callable[[str], None] | None = None
) -> Start:
    """Loads what `config.pretrained` names into a new detector; returns what was loaded. `tell` hears of downloads.

    Raises: ConfigError for weights that cannot be had, or that belong to another network.
    """
    source = config.pretrained
    if source == "none":
        return Start()
    if source == "imagenet":
        return _into_trunk(model, imagenet_state(config.trunk, tell), config, "imagenet")
    if source == "coco":
        state = as_ours(coco_state(config, tell))
        if coco_version(config) == "v1":  # trained with a frozen norm that adds nothing to the variance
            state = without_eps(state)
        return _into_detector(model, state, COCO_CLASSES, class_names, (IMAGENET_MEAN, IMAGENET_STD), "coco")
    assert source not in WEIGHTS_BY_NAME
    return _from_file(model, check_content(source), config, class_names)


def evaluated_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint of ours that its scores belong to: the averaged ones where there are any."""
    averaged = state.get("ema")
    if not averaged:
        return dict(state["model"])
    prefix = "module."
    return {key.removeprefix(prefix): value for key, value in averaged.items() if key.startswith(prefix)}


def read_weights(path: Path) -> dict[str, Any]:
    """What a file of weights holds: a checkpoint of ours, or the state_dict in it. No code is unpickled.

    Raises: ConfigError where it holds neither.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for one cause: not a weights file
        raise ConfigError(
            f"pretrained={str(path)!r} must be a file of tensors, by torch.save or as .safetensors; reading it said: "
            f"{first_line(error)}"
        ) from None
    if isinstance(state, dict) and "class_names" in state and isinstance(state.get("model"), dict):
        return state
    for name in ("model", "state_dict", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"pretrained={str(path)!r} must hold a state_dict (names and tensors)")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _from_file(model: Detector, path: Path, config: DetectorConfig, class_names: Sequence[str]) -> Start:
    state = read_weights(path)
    if "class_names" in state:
        statistics = tuple(state["channel_mean"]), tuple(state["channel_std"])
        weights = evaluated_weights(state)
        return _into_detector(model, weights, state["class_names"], class_names, statistics, str(path))
    if is_torchvision_detector(state):
        ours = as_ours(state)
        outputs = cast(nn.Conv2d, model.head.classification[0].output).out_channels
        anchors = outputs // model.head.num_scores
        classes = COCO_CLASSES if len(ours[f"{CLASSIFIER}0.output.bias"]) == anchors * len(COCO_CLASSES) else []
        if digest_of(str(path)).startswith(COCO_V1_DIGITS):
            ours = without_eps(ours)
        return _into_detector(model, ours, classes, class_names, (IMAGENET_MEAN, IMAGENET_STD), str(path))
    if all(key in state for key in model.state_dict()):  # a detector of ours without its record
        return _into_detector(model, state, [], class_names, None, str(path))
    return _into_trunk(model, state, config, str(path))


def _into_trunk(model: Detector, state: State, config: DetectorConfig, source: str) -> Start:
    """Loads a classifier's state_dict into the trunk; the rest of the detector keeps its random start."""
    if config.trunk not in OWN_TRUNKS:
        state = {f"net.{key}": value for key, value in by_timm_names(state, config, model.trunk, source).items()}
    wanted = model.trunk.state_dict()
    needed = {key: value for key, value in wanted.items() if COUNTER not in key and not key.startswith(FRESH_BLOCKS)}
    missing = [key for key in needed if key not in state]
    wrong = [key for key in needed if key in state and state[key].shape != needed[key].shape]
    if missing or wrong:
        raise ConfigError(
            f"pretrained={source!r} must hold the weights of {config.trunk} at its own width; {len(missing)} tensors are "
            f"missing {missing[:3]}, {len(wrong)} have another shape {wrong[:3]}"
        )
    fits = {key: state[key] for key in wanted if key in state}
    model.trunk.load_state_dict({**wanted, **fits})
    fresh = [key for key in model.state_dict() if key.removeprefix("trunk.") not in fits and COUNTER not in key]
    unused = [key for key in state if key not in wanted and COUNTER not in key]
    return Start(len(fits), fresh, unused, [], input_statistics(config))


def _into_detector(
    model: Detector,
    state: State,
    theirs: Sequence[str],
    ours: Sequence[str],
    statistics: Statistics | None,
    source: str,
) -> Start:
    """Loads a whole detector. Output layers of another shape start fresh; the classifier's rows go by class name."""
    wanted = model.state_dict()
    fits = {key: value for key, value in state.items() if key in wanted and value.shape == wanted[key].shape}
    misfits = [key for key in wanted if key not in fits and not key.endswith(OUTPUTS) and COUNTER not in key]
    if misfits:
        raise ConfigError(
            f"pretrained={source!r} must come from a detector of the same trunk, neck and heads; "
            f"{len(misfits)} tensors do not fit, first {misfits[:3]}"
        )
    kept: list[str] = []
    for key in [key for key in wanted if key.startswith(CLASSIFIER) and key.endswith(OUTPUTS)]:
        fits.pop(key, None)
        if key in state:
            made, kept = classifier_by_name(state[key], wanted[key], theirs, ours, model.head.num_scores > len(ours))
            if kept:
                fits[key] = made
    model.load_state_dict({**wanted, **fits})
    fresh = [key for key in wanted if key not in fits and COUNTER not in key]
    return Start(len(fits), fresh, [key for key in state if key not in wanted], kept, statistics)


def classifier_by_name(
    state: Tensor, fresh: Tensor, theirs: Sequence[str], ours: Sequence[str], background: bool
) -> tuple[Tensor, list[str]]:
    """(the weights (A*K, ..) or bias (A*K,) of a classifier with the rows of classes of equal name from `state`, those names).

    Rows of other classes stay as in `fresh`, background (the last score, where there is one) goes with any. Nothing is
    taken where the numbers of anchors a cell, or what they read, differ.
    """
    scores, known = len(ours) + background, len(theirs) + background
    if list(ours) == list(theirs) and state.shape == fresh.shape:
        return state, list(ours)
    same = [name for name in ours if theirs.count(name) == 1]
    alike = known and len(state) % known == 0 and len(fresh) // scores == len(state) // known
    if not same or not alike or state.shape[1:] != fresh.shape[1:]:
        return fresh, []
    old = state.reshape(-1, known, *state.shape[1:])
    new = fresh.clone().reshape(-1, scores, *fresh.shape[1:])
    for name in same:
        new[:, ours.index(name)] = old[:, theirs.index(name)]
    if background:
        new[:, -1] = old[:, -1]
    return new.reshape(fresh.shape), same


def _parts(keys: Sequence[str]) -> str:
    """The parts that some tensors belong to, in brackets."""
    parts = dict.fromkeys(".".join(key.split(".")[:2]) for key in keys)
    shown = [*list(parts)[:4], *([".."] if len(parts) > 4 else [])]
    return f" ({', '.join(shown)})" if shown else ""
