"""DetectorConfig: every knob of the detector, its training and its augmentation, once.

A config is a frozen set of plain values (numbers, strings, tuples). Standard library only: spaces and
results import it without torch. Which fields matter for a given config is written down in `ACTIVE_WHEN`;
the parts that are built from a config read exactly those (`ConsumedConfig` proves it at construction), and
the trial's identity is the hash of those alone.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, get_type_hints


class ConfigError(ValueError):
    """A configuration that breaks a rule; the message gives rule, value and remedy."""


@dataclass(frozen=True)
class DetectorConfig:
    """One detector and how it is trained. Lengths in canvas pixels, shares and probabilities in 0..1."""

    # Input
    image_size_px: tuple[int, int] = (128, 512)  # canvas (height, width); images are letterboxed onto it
    normalization: str = "dataset"  # dataset: channel mean/std of the training images; imagenet: torchvision's

    # Trunk
    trunk: str = "resnet18"  # resnet18 / 34 / 50 / 101, torchvision's; report_ssd: plain convolutions, levels 2..7
    trunk_width: float = 0.25  # channel multiplier; 1.0 is torchvision's own network
    trunk_weights: str = ""  # "" random, "imagenet", or a state_dict file
    detector_weights: str = ""  # a whole detector's checkpoint to start from
    trunk_extra_channels: tuple[int, ...] = ()  # residual blocks of stride 2 beyond a ResNet's level 5: levels 6, 7, ..
    frozen_stages: int = 0  # 0 none, 1 stem, 2 stem + layer1, .. 5 all
    norm: str = "batch"  # batch / group / frozen (batch norm with fixed statistics)
    group_norm_channels: int = 8  # channels per group wherever a group norm is used

    # Neck
    neck: str = "fpn"  # fpn / bifpn / none (heads on the trunk's own maps, as SSD)
    neck_levels: tuple[int, ...] = (2, 3, 4, 5)  # trunk levels; level l has stride 2^l
    neck_channels: int = 64
    neck_top_down: bool = True  # FPN; False: lateral convolutions only
    neck_repeats: int = 2  # BiFPN: how many times it is run through
    neck_separable: bool = True  # BiFPN: depthwise-separable convolutions, as EfficientDet
    neck_norm: str = "none"  # none / batch / group
    extra_levels: int = 1  # stride-2 convolutions beyond the last neck level
    extra_levels_from: str = "neck"  # trunk: from the last trunk level (RetinaNet paper); neck: from its neck output

    # Heads
    head_depth: int = 2  # 3x3 convolutions before each output convolution, 0..4
    head_channels: int = 64
    head_shared: bool = True  # one head for all levels, or one per level
    head_norm: str = "none"  # none / batch (per level, shared convolutions) / group

    # Anchors
    anchor_kind: str = "retinanet"  # retinanet: sizes x scales x ratios on every level; ssd: priors by level
    anchor_sizes: Any = 16.0  # float: side at the finest level, doubling per level; tuple: per level (float or tuple)
    anchor_scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    prior_sizes: Any = ()  # SSD: the square of each level, and one beyond; a side or (height, width)
    prior_ratios: Any = ()  # SSD: ratios of each level; r stands for r and 1/r
    anchor_offset: float = 0.5  # centre of a cell's anchors in strides; torchvision's is 0
    anchor_rounding: bool = False  # round corners to whole pixels, as torchvision does
    box_variances: tuple[float, ...] = (1.0, 1.0)  # regression targets are divided by these: centre, log side

    # Matching
    matcher: str = "threshold"  # threshold (two IoUs) / ssd (one IoU, every box gets its best anchor) / atss
    match_iou_high: float = 0.5  # at least this: positive
    match_iou_low: float = 0.4  # below this: background; between: ignored
    match_force_best: bool = True  # the best anchors of every box are positive whatever their IoU
    atss_candidates: int = 9  # ATSS: nearest cells considered on each level

    # Loss
    class_scores: str = "sigmoid"  # sigmoid: one score a class; softmax: classes and background
    class_loss: str = "focal"  # focal / hard_negatives (softmax cross-entropy, the worst negatives only)
    negatives_per_positive: float = 3.0  # hard_negatives
    bias_init: str = "prior"  # prior: every anchor starts at prior_probability; zero
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25  # weight of objects; background has 1 - alpha
    prior_probability: float = 0.01  # initial score of every class (softmax: of all classes together)
    box_loss: str = "smooth_l1"  # smooth_l1 / giou / ciou
    smooth_l1_beta: float = 0.0  # 0 is L1
    box_loss_weight: float = 1.0
    loss_normalization: str = "batch"  # divide by the positives of each image or of the batch

    # Optimizer and schedule
    optimizer: str = "adamw"  # sgd / adamw
    lr: float = 1e-3
    weight_decay: float = 1e-4  # not on norms and biases
    sgd_momentum: float = 0.9
    adam_beta2: float = 0.999
    clip_norm: float = 10.0  # gradient norm; 0 is off
    batch_size: int = 8
    steps_per_epoch: int = 0  # 0: one pass over the training set
    schedule: str = "cosine"  # cosine / multistep / constant (with a final decay)
    schedule_epochs: int = 18  # the schedule is laid over these
    warmup_epochs: float = 0.5
    lr_milestones: tuple[float, ...] = (0.67, 0.89)  # shares of schedule_epochs
    lr_decay: float = 0.1  # factor per milestone, or of the final decay
    final_decay_epochs: int = 2  # constant schedule: the last epochs train at lr * lr_decay
    precision: str = "auto"  # auto (bf16 where the hardware has it) / bf16 / fp32
    channels_last: bool = True
    ema_decay: float = 0.0  # 0 is off; evaluation then uses the averaged weights

    # Augmentation, on whole batches
    flip_probability: float = 0.5
    crop_probability: float = 0.0
    crop_min_iou: float = 0.0  # IoU of the window with a box whose centre it holds; small boxes only meet 0
    zoom_max: float = 0.0  # scale drawn log-uniformly from 1/(1+zoom_max) .. 1+zoom_max
    translate_max: float = 0.0  # share of the canvas, each way
    jitter_strength: float = 0.0  # brightness, contrast and channel gain by up to this share
    roll_probability: float = 0.0  # azimuth roll; only where the dataset is a full turn

    # Detection
    score_threshold: float = 0.02
    nms_iou: float = 0.5
    pre_nms_top_k: int = 600  # candidates per image before non-maximum suppression
    max_detections: int = 100  # per image

    def __post_init__(self) -> None:
        for field in fields(self):  # one form of every value, so that equal configs have equal hashes
            object.__setattr__(self, field.name, coerce(field.name, getattr(self, field.name)))
        validate(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorConfig:
        """The config with `values` over the defaults; lists become tuples.

        Raises: ConfigError for a name that is no field (with the nearest one) or a value of the wrong kind.
        """
        for name in values:
            check_field_name(name)
        return cls(**values)

    def with_values(self, values: Mapping[str, Any]) -> DetectorConfig:
        """This config with some fields changed, checked as in `from_dict`."""
        for name in values:
            check_field_name(name)
        return replace(self, **values)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values (tuples become lists)."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @property
    def num_levels(self) -> int:
        """Pyramid levels that the heads see."""
        return len(self.neck_levels) + (self.extra_levels if self.neck != "none" else 0)

    def active_dict(self) -> dict[str, Any]:
        """The fields that this config's parts consume, as JSON-ready values: what a trial journals."""
        active = active_fields(self)
        return {name: value for name, value in self.to_dict().items() if name in active}

    def hash(self) -> str:
        """Ten hex digits of the consumed fields: equal for configs that train alike."""
        canonical = json.dumps(self.active_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:10]


NESTED = ("anchor_sizes", "prior_sizes", "prior_ratios")  # may hold a tuple per level
FIELD_NAMES: tuple[str, ...] = tuple(field.name for field in fields(DetectorConfig))
FIELD_TYPES: dict[str, Any] = get_type_hints(DetectorConfig)

CHOICES: dict[str, tuple[str, ...]] = {
    "normalization": ("dataset", "imagenet"),
    "trunk": ("resnet18", "resnet34", "resnet50", "resnet101", "report_ssd"),
    "neck": ("fpn", "bifpn", "none"),
    "anchor_kind": ("retinanet", "ssd"),
    "matcher": ("threshold", "ssd", "atss"),
    "class_scores": ("sigmoid", "softmax"),
    "class_loss": ("focal", "hard_negatives"),
    "bias_init": ("prior", "zero"),
    "norm": ("batch", "group", "frozen"),
    "neck_norm": ("none", "batch", "group"),
    "extra_levels_from": ("trunk", "neck"),
    "head_norm": ("none", "batch", "group"),
    "box_loss": ("smooth_l1", "giou", "ciou"),
    "loss_normalization": ("image", "batch"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "multistep", "constant"),
    "precision": ("auto", "bf16", "fp32"),
}

# Inclusive bounds; math.inf is no bound.
BOUNDS: dict[str, tuple[float, float]] = {
    "trunk_width": (0.05, 4.0),
    "frozen_stages": (0, 5),
    "group_norm_channels": (1, 256),
    "neck_channels": (8, 1024),
    "neck_repeats": (1, 8),
    "atss_candidates": (1, 100),
    "negatives_per_positive": (0.0, 1000.0),
    "extra_levels": (0, 4),
    "head_depth": (0, 4),
    "head_channels": (8, 1024),
    "anchor_offset": (0.0, 1.0),
    "match_iou_high": (0.05, 1.0),
    "match_iou_low": (0.0, 1.0),
    "focal_gamma": (0.0, 10.0),
    "focal_alpha": (0.0, 1.0),
    "prior_probability": (1e-6, 0.9),
    "smooth_l1_beta": (0.0, 10.0),
    "box_loss_weight": (0.0, 100.0),
    "lr": (1e-9, 100.0),
    "weight_decay": (0.0, 1.0),
    "sgd_momentum": (0.0, 0.9999),
    "adam_beta2": (0.0, 0.99999),
    "clip_norm": (0.0, math.inf),
    "batch_size": (1, 65536),
    "steps_per_epoch": (0, math.inf),
    "schedule_epochs": (1, math.inf),
    "warmup_epochs": (0.0, 1e6),
    "lr_decay": (0.0, 1.0),
    "final_decay_epochs": (0, math.inf),
    "ema_decay": (0.0, 0.99999),
    "flip_probability": (0.0, 1.0),
    "crop_probability": (0.0, 1.0),
    "crop_min_iou": (0.0, 0.95),
    "zoom_max": (0.0, 3.0),
    "translate_max": (0.0, 0.5),
    "jitter_strength": (0.0, 1.0),
    "roll_probability": (0.0, 1.0),
    "score_threshold": (0.0, 1.0),
    "nms_iou": (0.0, 1.0),
    "pre_nms_top_k": (1, 100_000),
    "max_detections": (1, 10_000),
}

# A field that stands here is consumed only where its predicate holds; every other field always is.
ACTIVE_WHEN: dict[str, Callable[[DetectorConfig], bool]] = {
    "trunk_weights": lambda c: not c.detector_weights,
    "trunk_extra_channels": lambda c: _is_resnet(c),
    "frozen_stages": lambda c: _is_resnet(c),
    "norm": lambda c: _is_resnet(c),
    "neck_channels": lambda c: c.neck != "none",
    "neck_norm": lambda c: c.neck != "none",
    "extra_levels": lambda c: c.neck != "none",
    "neck_top_down": lambda c: c.neck == "fpn",
    "neck_repeats": lambda c: c.neck == "bifpn",
    "neck_separable": lambda c: c.neck == "bifpn",
    "anchor_sizes": lambda c: c.anchor_kind == "retinanet",
    "anchor_scales": lambda c: c.anchor_kind == "retinanet",
    "anchor_ratios": lambda c: c.anchor_kind == "retinanet",
    "anchor_rounding": lambda c: c.anchor_kind == "retinanet",
    "prior_sizes": lambda c: c.anchor_kind == "ssd",
    "prior_ratios": lambda c: c.anchor_kind == "ssd",
    "match_iou_high": lambda c: c.matcher != "atss",
    "match_iou_low": lambda c: c.matcher == "threshold",
    "match_force_best": lambda c: c.matcher == "threshold",
    "atss_candidates": lambda c: c.matcher == "atss",
    "focal_gamma": lambda c: c.class_loss == "focal",
    "focal_alpha": lambda c: c.class_loss == "focal",
    "negatives_per_positive": lambda c: c.class_loss == "hard_negatives",
    "prior_probability": lambda c: c.bias_init == "prior",
    "group_norm_channels": lambda c: (
        "group"
        in (
            c.norm if _is_resnet(c) else "",
            c.neck_norm if c.neck != "none" else "",
            c.head_norm if c.head_depth > 0 else "",
        )
    ),
    "extra_levels_from": lambda c: c.neck != "none" and c.extra_levels > 0,
    "head_channels": lambda c: c.head_depth > 0,
    "head_norm": lambda c: c.head_depth > 0,
    "smooth_l1_beta": lambda c: c.box_loss == "smooth_l1",
    "sgd_momentum": lambda c: c.optimizer == "sgd",
    "adam_beta2": lambda c: c.optimizer == "adamw",
    "lr_milestones": lambda c: c.schedule == "multistep",
    "lr_decay": lambda c: c.schedule in ("multistep", "constant"),
    "final_decay_epochs": lambda c: c.schedule == "constant",
    "crop_min_iou": lambda c: c.crop_probability > 0,
}


def _is_resnet(config: DetectorConfig) -> bool:
    return config.trunk != "report_ssd"


def active_fields(config: DetectorConfig) -> frozenset[str]:
    """The names of the fields that the parts built from `config` consume."""
    return frozenset(name for name in FIELD_NAMES if name not in ACTIVE_WHEN or ACTIVE_WHEN[name](config))


class ConsumedConfig:
    """Reads like a DetectorConfig and remembers which fields were read.

    The trainer hands it to every part; `check()` then holds what was read against `active_fields`.
    """

    def __init__(self, config: DetectorConfig) -> None:
        self._config = config
        self.consumed: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._config, name)
        if name in FIELD_NAMES:
            self.consumed.add(name)
        return value

    def check(self) -> None:
        """Raises: ConfigError where a field that should shape the detector was read by nobody, or the reverse."""
        active = active_fields(self._config)
        unread, surplus = sorted(active - self.consumed), sorted(self.consumed - active)
        if unread or surplus:
            raise ConfigError(
                f"every active field must be consumed by the part that it shapes; consumed by nobody: {unread}, "
                f"consumed although ACTIVE_WHEN says it is inactive: {surplus}. Mend detector/config.py ACTIVE_WHEN "
                "or the part that should read the field."
            )


def check_field_name(name: str, place: str = "DetectorConfig") -> None:
    """Raises: ConfigError, with the nearest field's name, if `name` is none."""
    if name in FIELD_NAMES:
        return
    near = difflib.get_close_matches(name, FIELD_NAMES, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else f" Fields: {', '.join(FIELD_NAMES)}."
    raise ConfigError(f'{place}: "{name}" is not a DetectorConfig field.{hint}')


def coerce(name: str, value: Any) -> Any:
    """`value` as the field's own type: lists to tuples, whole floats to int, int to float.

    Raises: ConfigError where that would lose something.
    """
    kind = FIELD_TYPES[name]
    if kind in (int, float) and isinstance(value, str):
        value = _as_number(value)
    if kind is bool:
        if isinstance(value, bool):
            return value
    elif kind is int:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer():
            return int(value)
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif kind is str:
        if isinstance(value, str):
            return value
    elif isinstance(value, (list, tuple)):
        whole = name in ("image_size_px", "neck_levels", "trunk_extra_channels")
        return tuple(_number(name, item, whole) for item in value)
    elif kind is Any and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ConfigError(f"DetectorConfig.{name} must be {_kind_name(kind)}, got {value!r}")


def check_value(name: str, value: Any) -> None:
    """Raises: ConfigError where a field alone cannot have this value (rules across fields are `validate`'s)."""
    value = coerce(name, value)
    if name in CHOICES and value not in CHOICES[name]:
        raise ConfigError(f"DetectorConfig.{name} must be one of {', '.join(CHOICES[name])}, got {value!r}")
    if name in BOUNDS:
        low, high = BOUNDS[name]
        if not low <= value <= high:  # also refuses NaN
            raise ConfigError(f"DetectorConfig.{name} must lie in [{low:g}, {high:g}], got {value!r}")


def _as_number(text: str) -> Any:
    """A number written as text: YAML 1.1 reads 1e-3 as text, people mean a number. Other text stays as it is."""
    try:
        return float(text)
    except ValueError:
        return text


def _number(name: str, item: Any, whole: bool) -> Any:
    if isinstance(item, (list, tuple)) and name in NESTED:
        return tuple(_number(name, inner, whole) for inner in item)
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise ConfigError(f"DetectorConfig.{name} must hold numbers, got {item!r}")
    if whole and not float(item).is_integer():  # also refuses NaN and infinities
        raise ConfigError(f"DetectorConfig.{name} must hold whole numbers, got {item!r}")
    return int(item) if whole else float(item)


def _kind_name(kind: Any) -> str:
    return "a number or a list of numbers" if kind is Any else getattr(kind, "__name__", str(kind))


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def validate(config: DetectorConfig) -> None:
    """Raises: ConfigError naming the first field whose value breaks its rule."""
    for name in (*CHOICES, *BOUNDS):
        check_value(name, getattr(config, name))
    for rule, holds, names in _cross_rules(config):
        if not holds:
            got = ", ".join(f"{name}={getattr(config, name)!r}" for name in names)
            raise ConfigError(f"DetectorConfig: {rule}, got {got}")


def _cross_rules(c: DetectorConfig) -> list[tuple[str, bool, tuple[str, ...]]]:
    """(rule, whether it holds, the fields it is about) for everything that no single bound says."""
    levels = c.neck_levels
    num_levels = c.num_levels
    top = 7 if c.trunk == "report_ssd" else 5 + len(c.trunk_extra_channels)
    step = 2 ** levels[-1] if c.trunk == "report_ssd" and levels else 32
    return [
        (
            f"image_size_px must be two multiples of {step} (height, width), at least 64{_nearest_canvas(c, step)}",
            len(c.image_size_px) == 2 and all(side >= 64 and side % step == 0 for side in c.image_size_px),
            ("image_size_px", "trunk"),
        ),
        (
            f"neck_levels must be consecutive levels out of {', '.join(map(str, range(2, top + 1)))}, which {c.trunk} has",
            bool(levels) and levels == tuple(range(levels[0], levels[-1] + 1)) and levels[0] >= 2 and levels[-1] <= top,
            ("neck_levels", "trunk", "trunk_extra_channels"),
        ),
        ("anchor_scales must be positive and increase", _increasing(c.anchor_scales), ("anchor_scales",)),
        ("anchor_ratios must be positive", _positive(c.anchor_ratios), ("anchor_ratios",)),
        (
            f"anchor_sizes must be a positive number or one positive entry per level ({num_levels} levels)",
            _sizes_fit(c.anchor_sizes, num_levels),
            ("anchor_sizes", "neck_levels", "extra_levels"),
        ),
        (
            f"prior_sizes must hold one positive side, or (height, width), per level and one beyond ({num_levels} + 1)",
            c.anchor_kind != "ssd" or _priors_fit(c.prior_sizes, num_levels + 1, (1, 2)),
            ("prior_sizes", "neck_levels", "extra_levels"),
        ),
        (
            f"prior_ratios must hold a tuple of positive ratios per level ({num_levels})",
            c.anchor_kind != "ssd" or _priors_fit(c.prior_ratios, num_levels, range(1, 10)),
            ("prior_ratios", "neck_levels", "extra_levels"),
        ),
        (
            "head_shared needs maps of the same channels and as many anchors on every level: a neck, and priors alike",
            not c.head_shared
            or (c.neck != "none" and (c.anchor_kind != "ssd" or len({len(row) for row in c.prior_ratios}) == 1)),
            ("head_shared", "neck", "prior_ratios"),
        ),
        (
            "box_variances must be two positive numbers (centre, log side)",
            len(c.box_variances) == 2 and _positive(c.box_variances),
            ("box_variances",),
        ),
        (
            "class_loss hard_negatives needs class_scores softmax",
            c.class_loss != "hard_negatives" or c.class_scores == "softmax",
            ("class_loss", "class_scores"),
        ),
        (
            "trunk_extra_channels must be at least 16 each, one for each of neck_levels beyond a ResNet's 5",
            not _is_resnet(c)
            or not c.trunk_extra_channels
            or (min(c.trunk_extra_channels) >= 16 and levels[-1:] == (5 + len(c.trunk_extra_channels),)),
            ("trunk_extra_channels", "neck_levels", "trunk"),
        ),
        (
            "match_iou_low must not exceed match_iou_high",
            c.match_iou_low <= c.match_iou_high,
            ("match_iou_low", "match_iou_high"),
        ),
        (
            'trunk_weights "imagenet" need torchvision\'s own network: trunk_width 1.0 and norm batch or frozen',
            c.trunk_weights != "imagenet" or (_is_resnet(c) and c.trunk_width == 1.0 and c.norm in ("batch", "frozen")),
            ("trunk_weights", "trunk_width", "norm"),
        ),
        (
            "lr_milestones must increase within 0..1",
            _increasing(c.lr_milestones) and all(share <= 1 for share in c.lr_milestones),
            ("lr_milestones",),
        ),
        (
            "final_decay_epochs must not exceed schedule_epochs",
            c.schedule != "constant" or c.final_decay_epochs <= c.schedule_epochs,
            ("final_decay_epochs", "schedule_epochs"),
        ),
    ]


def _nearest_canvas(c: DetectorConfig, step: int) -> str:
    """The nearest canvas that a rule about multiples allows, in words; "" where none is needed."""
    if len(c.image_size_px) != 2 or all(side >= 64 and side % step == 0 for side in c.image_size_px):
        return ""
    near = tuple(max(step, 64, (2 * side + step) // (2 * step) * step) for side in c.image_size_px)
    return f"; the nearest is {near[0]} x {near[1]}"


def _priors_fit(rows: Any, count: int, widths: Iterable[int]) -> bool:
    if not isinstance(rows, tuple) or len(rows) != count:
        return False
    entries = [row if isinstance(row, tuple) else (row,) for row in rows]
    return all(len(row) in widths and _positive(row) for row in entries)


def _positive(values: tuple[float, ...]) -> bool:
    return bool(values) and all(value > 0 for value in values)


def _increasing(values: tuple[float, ...]) -> bool:
    return _positive(values) and all(a < b for a, b in pairwise(values))


def _sizes_fit(sizes: Any, num_levels: int) -> bool:
    if isinstance(sizes, (int, float)):
        return sizes > 0
    rows = [row if isinstance(row, tuple) else (row,) for row in sizes]
    return len(rows) == num_levels and len({len(row) for row in rows}) == 1 and all(_positive(row) for row in rows)
