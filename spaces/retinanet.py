"""The default space: a one-stage detector of the RetinaNet/SSD family, started from pretrained weights.

Run it with `python -m search.run --space retinanet --data DIR` (a COCO-format folder) or without `--data` (the simulated
street). Base: the recipe of Lin et al. 2018 (focal loss, shared heads) on an ImageNet-pretrained trunk: on `cpu`
EfficientNet-Lite0, whose weights come with the installation, on `gpu` ResNet-50. Canvas and anchors come from the training
annotations. The fields are the ten that matter most on photographs and on the street; `retinanet_wide` has the rest.
`--pretrained none` takes a narrow ResNet-18 instead, which learns more from nothing than a large trunk does.
"""

from __future__ import annotations

from spaces.distributions import AtHand, Choice, Fitted, Float, Integer, SpaceEntry, When
from spaces.space import FITTED, Budget, Profile, Space, Start, StreetData

BASE = {
    "image_size_px": FITTED,
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
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    # Averaged weights are what is scored: half an epoch's memory takes the last steps' chance out of the rungs' decisions
    # (the street after 4 epochs: 0.157 mAP against 0.109, blood smears: 0.483 against 0.444).
    "ema_decay": 0.97,
    "flip_probability": 0.5,
}

# What a pretrained trunk on a few hundred photographs wants, chosen on val of boards (120 images) and blood smears (281), one
# seed each, 80 steps of 4 an epoch: augmentation (boards after 36 epochs 0.68 mAP, without 0.56 after 12, and no more later);
# GIoU (boards after 12 epochs 0.68, smooth L1 0.58; smears after 8 epochs 0.538 and 0.530); the trunk's stem and level 2 as
# they are (boards after 5 epochs 0.60 against 0.55, in two thirds of the time); pixels (smears after 8 epochs 0.586 at 160 000
# pixels, 0.576 at 124 000).
FINE_TUNED = {
    "zoom_max": 0.4,
    "translate_max": 0.1,
    "jitter_strength": 0.2,
    "box_loss": "giou",
    "box_loss_weight": 2.0,
    "frozen_stages": 2,
}

CPU_SIZE = {
    "extra_levels": 1,
    "neck_channels": 48,
    "head_depth": 1,
    "head_channels": 48,
    "batch_size": 4,
    "steps_per_epoch": 80,  # a quarter of an hour on two cores, whatever the size of the dataset
}

CPU_BASE = {
    **BASE,
    **CPU_SIZE,
    **FINE_TUNED,
    "trunk": "tf_efficientnet_lite0",
    "trunk_width": 1.0,
    "pretrained": "imagenet",
    "neck_levels": (3, 4, 5),
    "lr": 2e-3,
}

NOT_AUGMENTED = {"zoom_max": 0.0, "translate_max": 0.0, "jitter_strength": 0.0}
# From random weights a narrow network learns most in so few steps.
FROM_SCRATCH = {
    "trunk": "resnet18",
    "trunk_width": 0.25,
    "neck_levels": (3, 4),
    "lr": 1.5e-3,
    **NOT_AUGMENTED,
    "box_loss": "smooth_l1",
    "box_loss_weight": 1.0,
    "frozen_stages": 0,
}
CPU_FROM_SCRATCH = {**BASE, **CPU_SIZE, **FROM_SCRATCH}

GPU_BASE = {
    **BASE,
    **FINE_TUNED,
    "trunk": "resnet50",
    "trunk_width": 1.0,
    "pretrained": "imagenet",
    "neck_levels": (3, 4, 5),
    "extra_levels": 2,
    "neck_channels": 256,
    "head_depth": 4,
    "head_channels": 256,
    "batch_size": 16,
    "lr": 3e-4,
    # An epoch is one pass; of 281 images that would be 17 steps, 612 in all, where a start takes thousands.
    "min_steps_per_epoch": 100,
    "min_warmup_steps": 200,
}
# torchvision's RetinaNet (v2: GIoU, group norms in the heads): what its weights were trained with must stay.
GPU_FROM_COCO = {
    "extra_levels_from": "trunk",
    "trunk_lr_factor": 0.3,
}

FIELDS: dict[str, SpaceEntry] = {
    "trunk": AtHand(("tf_efficientnet_lite0", "resnet18", "resnet34", "resnet50")),
    "lr": Float(1e-3, 4e-3, log=True),
    "trunk_lr_factor": Float(0.3, 1.0, log=True),
    "anchor_sizes": Fitted(0.8, 1.4),
    "match_iou_high": Choice(0.4, 0.5),
    "match_iou_low": When("match_iou_high", {0.4: Choice(0.3), 0.5: Choice(0.4)}),
    "zoom_max": Float(0.1, 0.5),
    "focal_gamma": Float(1.0, 2.5),
    "box_loss_weight": Float(1.0, 3.0, log=True),
    "head_depth": Integer(1, 2),
}

# From random weights other fields matter: how fast it learns, and how its anchors and heads help it to.
SCRATCH_FIELDS: dict[str, SpaceEntry | None] = {
    "trunk": None,
    "trunk_lr_factor": None,
    "lr": Float(1.5e-3, 5e-3, log=True),
    "anchor_scales": Choice((1.0,), (1.0, 2**0.5)),
    "match_iou_high": Choice(0.3, 0.4, 0.5),
    "match_iou_low": When("match_iou_high", {0.3: Choice(0.2), 0.4: Choice(0.3), 0.5: Choice(0.4)}),
    "zoom_max": Float(0.0, 0.2),
    "focal_alpha": Float(0.2, 0.6),
    "box_loss": Choice("smooth_l1", "giou"),
    "box_loss_weight": When("box_loss", {"smooth_l1": Float(0.5, 2.0, log=True), "giou": Float(1.0, 3.0, log=True)}),
    "head_depth": None,
}

# A whole detector's weights fit the trunk and heads that they were trained in.
AS_THE_FILE: dict[str, SpaceEntry | None] = {"trunk": None, "head_depth": None}

GPU_LR = Float(1e-4, 1e-3, log=True)  # a network of full width wants smaller steps

SPACE = Space(
    name="retinanet",
    about="RetinaNet/SSD family from pretrained weights: rates, anchors, augmentation and losses",
    profiles={
        "cpu": Profile(
            CPU_BASE,
            FIELDS,
            Budget(trials=12, epochs=9, grace=1, eta=3, polish=3),
            max_pixels=160_000,
            street=StreetData(
                train=400, val=100, test=100, degrees=180, steps_per_epoch=56, pretrained="none",
                budget=Budget(trials=16, epochs=16, grace=1, eta=4),
            ),
            starts={"none": Start(FROM_SCRATCH, SCRATCH_FIELDS), "file": Start({}, AS_THE_FILE)},
        ),
        "gpu": Profile(
            GPU_BASE,
            {**FIELDS, "lr": GPU_LR, "head_depth": Integer(2, 4)},
            Budget(trials=32, epochs=36, grace=4, eta=3, polish=2),
            max_pixels=1_100_000,
            street=StreetData(train=1600, val=300, test=300, degrees=360),
            starts={
                "none": Start({**NOT_AUGMENTED, "frozen_stages": 0}, {**SCRATCH_FIELDS, "lr": GPU_LR}),
                "coco": Start(GPU_FROM_COCO, AS_THE_FILE),
                "file": Start({}, AS_THE_FILE),
            },
        ),
    },
)  # fmt: skip
