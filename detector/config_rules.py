"""The rules of DetectorConfig: what a field may be, when it is active, and what must hold across fields.

Standard library only, as detector/config.py, which holds the fields themselves and applies these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.config import DetectorConfig

Rule = tuple[str, bool, tuple[str, ...]]  # what must hold, whether it does, the fields that it is about

CHOICES: dict[str, tuple[str, ...]] = {
    "train_split": ("train", "extended"),
    "normalization": ("dataset", "imagenet"),
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
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("cosine", "multistep", "constant"),
    "precision": ("auto", "bf16", "fp32"),
}

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
OWN_TRUNKS = (*RESNETS, "report_ssd")  # at any width; every other name is a timm model's

# Inclusive bounds; math.inf is no bound.
BOUNDS: dict[str, tuple[float, float]] = {
    "trunk_width": (0.05, 4.0),
    "trunk_lr_factor": (0.001, 10.0),
    "frozen_stages": (0, 7),
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
    "min_steps_per_epoch": (0, math.inf),
    "min_warmup_steps": (0, math.inf),
    "ema_warmup_steps": (0, math.inf),
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
    "mosaic_probability": (0.0, 1.0),
    "copy_paste_probability": (0.0, 1.0),
    "repeat_threshold": (0.0, 1.0),
    "score_threshold": (0.0, 1.0),
    "nms_iou": (0.0, 1.0),
    "pre_nms_top_k": (1, 100_000),
    "max_detections": (1, 10_000),
}

# A field that stands here is consumed only where its predicate holds; every other field always is.
ACTIVE_WHEN: dict[str, Callable[[DetectorConfig], bool]] = {
    "normalization": lambda c: c.pretrained == "none",  # weights bring their own
    "trunk_lr_factor": lambda c: c.pretrained != "none",
    "trunk_width": lambda c: c.trunk in OWN_TRUNKS,
    "trunk_extra_channels": lambda c: c.trunk in RESNETS,
    "norm": lambda c: _has_norm(c),
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
            c.norm if _has_norm(c) else "",
            c.neck_norm if c.neck != "none" else "",
            c.head_norm if c.head_depth > 0 else "",
        )
    ),
    "extra_levels_from": lambda c: c.neck != "none" and c.extra_levels > 0,
    "head_channels": lambda c: c.head_depth > 0,
    "head_norm": lambda c: c.head_depth > 0,
    "smooth_l1_beta": lambda c: c.box_loss == "smooth_l1",
    "sgd_momentum": lambda c: c.optimizer == "sgd",
    "adam_beta2": lambda c: c.optimizer != "sgd",
    "min_steps_per_epoch": lambda c: c.steps_per_epoch == 0,
    "ema_warmup_steps": lambda c: c.ema_decay > 0,
    "lr_milestones": lambda c: c.schedule == "multistep",
    "lr_decay": lambda c: c.schedule in ("multistep", "constant"),
    "final_decay_epochs": lambda c: c.schedule == "constant",
    "crop_min_iou": lambda c: c.crop_probability > 0,
}


def _has_norm(config: DetectorConfig) -> bool:
    return config.trunk != "report_ssd"


def cross_rules(c: DetectorConfig) -> list[Rule]:
    """Everything that no single bound says, whether it holds for this config or not."""
    return [*_level_rules(c), *_weight_rules(c), *_anchor_rules(c), *_loss_rules(c), *_schedule_rules(c)]


def _level_rules(c: DetectorConfig) -> list[Rule]:
    levels = c.neck_levels
    top = 7 if c.trunk == "report_ssd" else 5 + len(c.trunk_extra_channels) * (c.trunk in RESNETS)
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
        (
            "trunk_extra_channels must be at least 16 each, one for each of neck_levels beyond a ResNet's 5",
            c.trunk not in RESNETS
            or not c.trunk_extra_channels
            or (min(c.trunk_extra_channels) >= 16 and levels[-1:] == (5 + len(c.trunk_extra_channels),)),
            ("trunk_extra_channels", "neck_levels", "trunk"),
        ),
    ]


def _weight_rules(c: DetectorConfig) -> list[Rule]:
    pretrained = c.pretrained != "none"
    own_size = c.trunk not in OWN_TRUNKS or c.trunk_width == 1.0
    return [
        ("trunk must be the name of a trunk", bool(c.trunk), ("trunk",)),
        ("pretrained must be none, imagenet, coco or a file of weights", bool(c.pretrained), ("pretrained",)),
        (
            "pretrained imagenet needs a network that somebody has trained: a timm model, or a resnet at trunk_width 1.0 "
            "with norm batch or frozen",
            c.pretrained != "imagenet" or (c.trunk != "report_ssd" and own_size and c.norm != "group"),
            ("pretrained", "trunk", "trunk_width", "norm"),
        ),
        (
            "pretrained coco is torchvision's RetinaNet: trunk resnet50 at trunk_width 1.0 with norm batch or frozen, neck "
            "fpn of 256 channels on levels 3, 4, 5 and two extra_levels, shared heads of 4 convolutions of 256 channels",
            c.pretrained != "coco"
            or (
                (c.trunk, c.trunk_width, c.neck, c.neck_levels, c.extra_levels, c.head_depth, c.head_shared)
                == ("resnet50", 1.0, "fpn", (3, 4, 5), 2, 4, True)
                and c.neck_channels == c.head_channels == 256
                and c.norm != "group"
            ),
            (
                "pretrained",
                "trunk",
                "trunk_width",
                "norm",
                "neck",
                "neck_levels",
                "extra_levels",
                "head_depth",
                "head_shared",
                "neck_channels",
                "head_channels",
            ),
        ),
        (
            "norm frozen keeps the statistics that a trunk was trained with: it needs pretrained weights",
            c.norm != "frozen" or not _has_norm(c) or pretrained,
            ("norm", "pretrained"),
        ),
        (
            "frozen_stages keep what a trunk has learned: they need pretrained weights",
            c.frozen_stages == 0 or pretrained,
            ("frozen_stages", "pretrained"),
        ),
        (
            "frozen_stages must not exceed the deepest of neck_levels that weights reach: of a resnet 5",
            c.frozen_stages <= min(max(c.neck_levels, default=0), 5 if c.trunk in RESNETS else 7),
            ("frozen_stages", "neck_levels"),
        ),
        (
            "norm group is for our own resnets: a timm model has the norms that its weights were trained with",
            c.trunk in OWN_TRUNKS or c.norm != "group",
            ("norm", "trunk"),
        ),
    ]


def _anchor_rules(c: DetectorConfig) -> list[Rule]:
    num_levels = c.num_levels
    return [
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
            not c.head_shared or (c.neck != "none" and (c.anchor_kind != "ssd" or _rows_alike(c.prior_ratios))),
            ("head_shared", "neck", "prior_ratios"),
        ),
        (
            "box_variances must be two positive numbers (centre, log side)",
            len(c.box_variances) == 2 and _positive(c.box_variances),
            ("box_variances",),
        ),
        (
            "match_iou_low must not exceed match_iou_high",
            c.matcher != "threshold" or c.match_iou_low <= c.match_iou_high,
            ("match_iou_low", "match_iou_high"),
        ),
    ]


def _loss_rules(c: DetectorConfig) -> list[Rule]:
    return [
        (
            "class_loss hard_negatives needs class_scores softmax",
            c.class_loss != "hard_negatives" or c.class_scores == "softmax",
            ("class_loss", "class_scores"),
        ),
    ]


def _schedule_rules(c: DetectorConfig) -> list[Rule]:
    return [
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


def _rows_alike(rows: Any) -> bool:
    """Whether all rows hold as many numbers; a number is a row of one."""
    return isinstance(rows, tuple) and len({len(row) if isinstance(row, tuple) else 1 for row in rows}) == 1


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
