"""DetectorConfig: every knob of the detector, its training and its augmentation, once.

A config is a frozen set of plain values (numbers, strings, tuples). Standard library only: spaces and
results import it without torch. Which fields matter for a given config is written down in `ACTIVE_WHEN` (detector/config_rules.py);
the parts that are built from a config read exactly those (`ConsumedConfig` proves it at construction), and
the trial's identity is the hash of those alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

from detector.config_rules import ACTIVE_WHEN, BOUNDS, CHOICES, cross_rules
from detector.identity import RENAMED, hash_of, migrated


class ConfigError(ValueError):
    """A configuration that breaks a rule; the message gives rule, value and remedy."""


def unreadable_weights(value: str, error: OSError) -> ConfigError:
    """The error of a weight file that cannot be read."""
    return ConfigError(
        f"pretrained={value!r} must be none, imagenet, coco or a readable file of weights ({error.strerror})"
    )


def first_line(error: Exception) -> str:
    """What an error says first, for a message; its kind where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@dataclass(frozen=True)
class DetectorConfig:
    """One detector and how it is trained. Lengths in canvas pixels, shares and probabilities in 0..1."""

    # Input
    train_split: str = "train"  # train, or extended: the training images and those of the extended split
    repeat_threshold: float = 0.0  # classes in less than this share of the images are drawn more often; 0 is off
    image_size_px: tuple[int, int] = (128, 512)  # canvas (height, width); images are letterboxed onto it
    normalization: str = "dataset"  # without weights: channel mean/std of the training images, or imagenet's

    # Trunk and where it starts
    trunk: str = (
        "resnet18"  # resnet18 / 34 / 50 / 101, torchvision's; report_ssd: plain convolutions; else a timm model
    )
    trunk_width: float = 0.25  # channel multiplier of our own trunks; 1.0 is torchvision's own network
    pretrained: str = "none"  # none / imagenet (the trunk) / coco (the whole detector) / a file of weights
    trunk_lr_factor: float = 1.0  # the pretrained trunk's learning rate over the rest's
    trunk_extra_channels: tuple[int, ...] = ()  # residual blocks of stride 2 beyond a ResNet's level 5: levels 6, 7, ..
    frozen_stages: int = 0  # 0 none, 1 the stem, 2 the stem and all up to level 2, .. 5 all up to level 5
    norm: str = "batch"  # of the trunk: batch / group / frozen (a fixed scale and shift)
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
    focal_alpha: Any = 0.25  # weight of objects, background has 1 - alpha; tuple: per class (softmax: background last)
    prior_probability: float = 0.01  # initial score of every class (softmax: of all classes together)
    box_loss: str = "smooth_l1"  # smooth_l1 / giou / ciou
    smooth_l1_beta: float = 0.0  # 0 is L1
    box_loss_weight: float = 1.0
    loss_normalization: str = "batch"  # divide by the positives of each image or of the batch

    # Optimizer and schedule
    optimizer: str = "adamw"  # sgd / adam (weight decay in the gradient) / adamw
    lr: float = 1e-3
    weight_decay: float = 1e-4  # not on norms and biases
    sgd_momentum: float = 0.9
    adam_beta2: float = 0.999
    clip_norm: float = 10.0  # gradient norm; 0 is off
    batch_size: int = 8
    steps_per_epoch: int = 0  # 0: one pass over the training set
    min_steps_per_epoch: int = 0  # of an epoch that is one pass: small datasets are passed over several times
    schedule: str = "cosine"  # cosine / multistep / constant (with a final decay)
    schedule_epochs: int = 18  # the schedule is laid over these
    warmup_epochs: float = 0.5
    min_warmup_steps: int = 0  # a warm-up is at least so long
    lr_milestones: tuple[float, ...] = (0.67, 0.89)  # shares of schedule_epochs
    lr_decay: float = 0.1  # factor per milestone, or of the final decay
    final_decay_epochs: int = 2  # constant schedule: the last epochs train at lr * lr_decay
    precision: str = "auto"  # auto (bf16 where the hardware has it) / bf16 / fp32
    channels_last: bool = True
    ema_decay: float = 0.0  # 0 is off; evaluation then uses the averaged weights
    ema_warmup_steps: int = 0  # the decay rises to ema_decay over about so many steps

    # Augmentation, on whole batches
    flip_probability: float = 0.5
    crop_probability: float = 0.0
    crop_min_iou: float = 0.0  # IoU of the window with a box whose centre it holds; small boxes only meet 0
    zoom_max: float = 0.0  # scale drawn log-uniformly from 1/(1+zoom_max) .. 1+zoom_max
    translate_max: float = 0.0  # share of the canvas, each way
    jitter_strength: float = 0.0  # brightness, contrast and channel gain by up to this share
    roll_probability: float = 0.0  # azimuth roll; only where the dataset is a full turn
    mosaic_probability: float = 0.0  # quarters of four images of the batch, each at its place and in its size
    copy_paste_probability: float = 0.0  # some boxes of another image of the batch pasted where they stood

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

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> DetectorConfig:
        """The config of a record (a plan, checkpoint, best.yaml), which an earlier version may have written.

        Raises: ConfigError as `from_dict`.
        """
        return cls.from_dict(migrated(values))

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
        """Twelve hex digits: equal for configs that train alike (detector/identity.py).

        Raises: ConfigError where a weight file cannot be read.
        """
        return config_hash(self.active_dict())


NESTED = ("anchor_sizes", "prior_sizes", "prior_ratios")  # may hold a tuple per level
FIELD_NAMES: tuple[str, ...] = tuple(field.name for field in fields(DetectorConfig))
FIELD_TYPES: dict[str, Any] = get_type_hints(DetectorConfig)


def config_hash(consumed: Mapping[str, Any]) -> str:
    """The hash of a config's consumed fields, as a trial's record holds them.

    Raises: ConfigError where a weight file cannot be read.
    """
    try:
        return hash_of(consumed, DEFAULTS)
    except OSError as error:
        raise unreadable_weights(consumed["pretrained"], error) from None


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
                f"consumed although ACTIVE_WHEN says it is inactive: {surplus}. Mend detector/config_rules.py ACTIVE_WHEN "
                "or the part that should read the field."
            )


def check_field_name(name: str, place: str = "DetectorConfig") -> None:
    """Raises: ConfigError, with the nearest field's name, if `name` is none."""
    if name in FIELD_NAMES:
        return
    if name in RENAMED:
        raise ConfigError(f'{place}: "{name}" is now "{RENAMED[name]}".')
    near = difflib.get_close_matches(name, FIELD_NAMES, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else f" Fields: {', '.join(FIELD_NAMES)}."
    raise ConfigError(f'{place}: "{name}" is not a DetectorConfig field.{hint}')


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


DEFAULTS: dict[str, Any] = {field.name: _plain(field.default) for field in fields(DetectorConfig)}


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
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or not all(low <= number <= high for number in numbers):  # also refuses NaN
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


def validate(config: DetectorConfig) -> None:
    """Raises: ConfigError naming the first field whose value breaks its rule."""
    for name in (*CHOICES, *BOUNDS):
        check_value(name, getattr(config, name))
    for rule, holds, names in cross_rules(config):
        if not holds:
            got = ", ".join(f"{name}={getattr(config, name)!r}" for name in names)
            raise ConfigError(f"DetectorConfig: {rule}, got {got}")


def check_class_weights(config: DetectorConfig, num_classes: int) -> None:
    """Raises: ConfigError where focal_alpha lists weights, but not one for each score of `num_classes` classes."""
    if config.class_loss != "focal" or not isinstance(config.focal_alpha, tuple):
        return
    softmax = config.class_scores == "softmax"
    num_scores = num_classes + softmax
    if len(config.focal_alpha) != num_scores:
        order = "the classes, then background" if softmax else "the classes"
        raise ConfigError(
            f"focal_alpha must be one number or hold a weight for each of {num_scores} scores ({order}), "
            f"got {len(config.focal_alpha)}"
        )
