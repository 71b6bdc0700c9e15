"""A study of seconds, for tests and a first look: tiny detector, small street, 12 trials over 3 rungs."""

from __future__ import annotations

from spaces.distributions import Choice, Fitted, Float, SpaceEntry
from spaces.retinanet import CPU_FROM_SCRATCH
from spaces.space import Budget, Profile, Space, StreetData

BASE = {
    **CPU_FROM_SCRATCH,
    "trunk_width": 0.25,
    "neck_channels": 16,
    "head_channels": 16,
    "head_depth": 0,
    "batch_size": 8,
    "steps_per_epoch": 4,
    "warmup_epochs": 0.2,
    "anchor_scales": (1.0,),
}

FIELDS: dict[str, SpaceEntry] = {
    "lr": Float(1e-3, 1e-2, log=True),
    "anchor_sizes": Fitted(0.8, 1.4),
    "focal_alpha": Float(0.25, 0.6),
    "head_shared": Choice(True, False),
    "box_loss": Choice("smooth_l1", "giou"),
}

_PROFILE = Profile(
    BASE,
    FIELDS,
    Budget(trials=12, epochs=9, grace=1, eta=3),
    max_pixels=34_000,
    street=StreetData(train=32, val=16, test=16, degrees=180),
)

SPACE = Space(
    name="smoke", about="seconds on two cores, for tests and a first look", profiles={"cpu": _PROFILE, "gpu": _PROFILE}
)
