"""The default space: a one-stage detector of the RetinaNet/SSD family, from optimizer to anchors and heads.

Run it with `python -m search.run --space retinanet` (simulated street) or `--data DIR` (a COCO-format folder).
Base: the recipe of Lin et al. 2018 (focal loss, L1 boxes, shared heads), narrow on `cpu`, torchvision's own size on
`gpu`; canvas and anchors come from the training annotations, so one base serves the street and photographs alike.
"""

from __future__ import annotations

from spaces.distributions import Choice, Fitted, Float, Integer, SpaceEntry, When
from spaces.space import FITTED, Budget, Profile, Space, StreetData

BASE = {
    "image_size_px": FITTED,
    "trunk": "resnet18",
    "norm": "batch",
    "anchor_sizes": FITTED,
    "anchor_ratios": FITTED,
    "anchor_scales": (1.0, 2**0.5),
    # Lin et al. match at 0.5 and 0.4, with nine anchors a cell. On small objects few of ours would reach that: the street
    # learned 0.25 mAP with it in the time of 0.31 (one seed each).
    "match_iou_high": 0.4,
    "match_iou_low": 0.3,
    "head_norm": "group",
    "box_loss": "smooth_l1",
    "smooth_l1_beta": 0.1,
    "optimizer": "adamw",
    "lr": 1.5e-3,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    # Averaged weights are what is scored: half an epoch's memory takes the last steps' chance out of the rungs' decisions
    # (the street after 4 epochs: 0.157 mAP against 0.109, blood smears: 0.483 against 0.444).
    "ema_decay": 0.97,
    "flip_probability": 0.5,
}

CPU_BASE = {
    **BASE,
    "trunk_width": 0.25,
    "neck_levels": (3, 4),
    "extra_levels": 1,
    "neck_channels": 48,
    "head_depth": 1,
    "head_channels": 48,
    "batch_size": 4,
    "steps_per_epoch": 80,  # a quarter of an hour on two cores, whatever the size of the dataset
}

GPU_BASE = {
    **BASE,
    "trunk": "resnet50",
    "trunk_width": 1.0,
    "neck_levels": (3, 4, 5),
    "extra_levels": 2,
    "neck_channels": 256,
    "head_depth": 4,
    "head_channels": 256,
    "batch_size": 16,
    "lr": 3e-4,
}

FIELDS: dict[str, SpaceEntry] = {
    # Optimization
    "optimizer": Choice("adamw", "sgd"),
    # A thousand steps want more than the usual 1e-3. SGD at 0.03 and more leads early and ends lower.
    "lr": When("optimizer", {"adamw": Float(1.5e-3, 5e-3, log=True), "sgd": Float(4e-3, 2e-2, log=True)}),
    "weight_decay": Float(1e-5, 3e-2, log=True),
    # Anchors
    "anchor_sizes": Fitted(0.8, 1.4),
    "anchor_scales": Choice((1.0,), (1.0, 2**0.5)),
    "anchor_ratios": Choice(FITTED, (0.5, 1.0, 2.0)),
    "match_iou_high": Choice(0.3, 0.4, 0.5),
    "match_iou_low": When("match_iou_high", {0.3: Choice(0.2), 0.4: Choice(0.3), 0.5: Choice(0.4)}),
    # Augmentation
    "zoom_max": Float(0.0, 0.2),
    "translate_max": Float(0.0, 0.1),
    "jitter_strength": Float(0.0, 0.2),
    "crop_probability": Float(0.0, 0.2),
    "roll_probability": Choice(0.0, 0.5),
    # Neck and heads
    "neck_top_down": Choice(True, False),
    "head_depth": Integer(0, 2),
    "head_shared": Choice(True, False),
    # Loss
    "focal_gamma": Float(1.0, 2.5),
    "focal_alpha": Float(0.2, 0.6),
    "prior_probability": Float(0.003, 0.05, log=True),
    "box_loss": Choice("smooth_l1", "giou"),
    "box_loss_weight": When("box_loss", {"smooth_l1": Float(0.5, 2.0, log=True), "giou": Float(1.0, 3.0, log=True)}),
}

# A network of full width wants smaller steps.
GPU_LR = When("optimizer", {"adamw": Float(1e-4, 1e-3, log=True), "sgd": Float(2e-3, 2e-2, log=True)})

SPACE = Space(
    name="retinanet",
    about="RetinaNet/SSD family: optimizer, anchors, augmentation, neck, heads and losses",
    profiles={
        "cpu": Profile(
            CPU_BASE,
            {**FIELDS, "head_channels": Choice(32, 48)},
            Budget(trials=16, epochs=16, grace=1, eta=4),
            max_pixels=82_000,
            street=StreetData(train=400, val=100, test=100, degrees=180, steps_per_epoch=56),
        ),
        "gpu": Profile(
            GPU_BASE,
            {**FIELDS, "lr": GPU_LR, "head_depth": Integer(1, 4), "head_channels": Choice(128, 256)},
            Budget(trials=32, epochs=36, grace=4, eta=3),
            max_pixels=1_100_000,
            street=StreetData(train=1600, val=300, test=300, degrees=360),
        ),
    },
)
