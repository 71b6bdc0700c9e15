"""The default space with everything that is known to matter somewhere: 25 fields, for a search of a hundred trials and more."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from spaces.distributions import Choice, Float, Integer, SpaceEntry, When
from spaces.retinanet import FIELDS, SCRATCH_FIELDS
from spaces.retinanet import SPACE as NARROW
from spaces.space import FITTED, Profile, Space, Start

SCRATCH_BOX_LOSS, SCRATCH_BOX_WEIGHT = (
    cast(SpaceEntry, SCRATCH_FIELDS[name]) for name in ("box_loss", "box_loss_weight")
)
MORE: dict[str, SpaceEntry] = {
    # Optimization
    "optimizer": Choice("adamw", "sgd"),
    "weight_decay": Float(1e-5, 3e-2, log=True),
    # Anchors
    "anchor_scales": Choice((1.0,), (1.0, 2**0.5)),
    "anchor_ratios": Choice(FITTED, (0.5, 1.0, 2.0)),
    # Augmentation
    "translate_max": Float(0.0, 0.2),
    "jitter_strength": Float(0.0, 0.4),
    "crop_probability": Float(0.0, 0.2),
    "roll_probability": Choice(0.0, 0.5),
    "mosaic_probability": Choice(0.0, 0.3),
    "copy_paste_probability": Choice(0.0, 0.3),
    "repeat_threshold": Choice(0.0, 0.3),
    # Neck and heads
    "neck_top_down": Choice(True, False),
    "head_depth": Integer(0, 2),
    "head_shared": Choice(True, False),
    # Loss
    "box_loss": SCRATCH_BOX_LOSS,
    "box_loss_weight": SCRATCH_BOX_WEIGHT,
    "focal_alpha": Float(0.2, 0.6),
    "prior_probability": Float(0.003, 0.05, log=True),
}


def _lr(low: float, high: float) -> When:
    """Rates by optimizer; SGD wants about four times AdamW's here. SGD at 0.03 and more leads early and ends lower."""
    return When("optimizer", {"adamw": Float(low, high, log=True), "sgd": Float(2.7 * low, 4 * high, log=True)})


def _widened(profile: Profile, low: float, high: float, heads: tuple[int, ...], depth: Integer) -> Profile:
    sizes: dict[str, SpaceEntry] = {"head_channels": Choice(*heads), "head_depth": depth}
    none = profile.starts["none"]
    scratch = {**SCRATCH_FIELDS, "lr": _lr(low, high), "head_depth": depth}
    fixed: dict[str, SpaceEntry | None] = dict.fromkeys(
        ("trunk", "head_depth", "head_channels", "head_shared", "neck_top_down", "optimizer")
    )
    others = {
        name: Start(start.base, {**fixed, "lr": Float(low, high, log=True)})
        for name, start in profile.starts.items()
        if name != "none"
    }
    return replace(
        profile, fields={**FIELDS, **MORE, **sizes, "lr": _lr(low, high)},
        starts={**others, "none": Start(none.base, scratch)},
    )  # fmt: skip


SPACE = Space(
    name="retinanet_wide",
    about="the default space with optimizer, anchor shapes, all augmentations, neck, heads and more of the losses",
    profiles={
        "cpu": _widened(NARROW.profiles["cpu"], 1e-3, 4e-3, (32, 48), MORE["head_depth"]),  # type: ignore[arg-type]
        "gpu": _widened(NARROW.profiles["gpu"], 1e-4, 1e-3, (128, 256), Integer(1, 4)),
    },
)
