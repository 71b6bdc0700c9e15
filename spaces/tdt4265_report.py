"""The chain of a hand-run ablation, step by step, on LiDAR images of road users; each step can also be searched around.

Source: project report TDT4265 (NTNU), S. Utne, May 2022: an SSD on 128 x 1024 LiDAR images, changed until it is a
RetinaNet with anchors of its own. Its steps with several causes are parted here: trunk, ImageNet weights and neck;
anchors and optimizer; length and data. `Reported` holds what the report prints; its mAP is read off its plots.
The canvas is fitted to the images, in steps of 128 pixels, which six levels need.
Differs from the report: weight decay does not act on norms and biases, and the bias step does what the report's text
says (background alone, every level), not what its code did.

Commands: `python -m search.ablate --space tdt4265_report [--data DIR]`; `python -m search.run --space tdt4265_report
--from +bias` searches around a step.
"""

from __future__ import annotations

from typing import Any

from spaces.chain import Reported, Step
from spaces.distributions import Choice, Float, SpaceEntry, When
from spaces.space import FITTED, Budget, Profile, Space, StreetData

BASE: dict[str, Any] = {
    "image_size_px": FITTED,  # the street: 128 x 512 (cpu), the report's 128 x 1024 (gpu)
    "trunk": "report_ssd",
    "neck": "none",
    "neck_levels": (2, 3, 4, 5, 6, 7),
    "extra_levels": 0,
    "head_depth": 0,
    "head_shared": False,
    "head_norm": "none",
    "anchor_kind": "ssd",
    "prior_sizes": (16, 32, 48, 64, 86, 128, (128, 400)),
    "prior_ratios": ((2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    "box_variances": (0.1, 0.2),
    "matcher": "ssd",
    "match_iou_high": 0.5,
    "class_scores": "softmax",
    "class_loss": "hard_negatives",
    "negatives_per_positive": 3.0,
    "bias_init": "zero",
    "box_loss": "smooth_l1",
    "smooth_l1_beta": 1.0,
    "optimizer": "sgd",
    "lr": 5e-3,
    "sgd_momentum": 0.9,
    "weight_decay": 5e-4,
    # Differs from the report, which does not speak of clipping: untrained, its FPN's gradients have norms up to 1000, and
    # two of four small runs ended in NaN. The baseline's, 10 to 40, are hardly touched.
    "clip_norm": 35.0,
    "schedule": "constant",
    "final_decay_epochs": 0,
    "flip_probability": 0.0,
    "score_threshold": 0.05,
    "nms_iou": 0.5,
    "max_detections": 200,
}

ANCHORS: dict[str, Any] = {
    "prior_sizes": (6, 16, 32, 48, 64, 128, 200),
    "prior_ratios": ((2, 4), (1.3, 2), (1.3, 4), (1.5, 2, 4), (2, 3, 4), (2, 3, 4)),
}


def chain(neck_channels: int, steps_per_epoch: int, warmup_epochs: float) -> tuple[Step, ...]:
    """The report's steps for one size of detector and one length of training."""
    longer = {"steps_per_epoch": 6 * steps_per_epoch, "warmup_epochs": warmup_epochs / 6}  # as many warm-up steps
    return (
        Step("baseline", {}, "2.1", Reported(0.042, 130.88, 2_590_880)),
        Step("+flip", {"flip_probability": 0.3}, "2.2", Reported(0.040, 131.51, 2_590_880)),
        Step("+resnet50", {"trunk": "resnet50", "trunk_extra_channels": (512, 64)}, "2.3.1, its trunk"),
        Step("+imagenet", {"pretrained": "imagenet"}, "2.3.1, its weights", optional=True),
        Step("+fpn", {"neck": "fpn", "neck_channels": neck_channels}, "2.3.1", Reported(0.056, 277.73, 38_652_256)),
        Step("+focal", {"class_loss": "focal", "focal_gamma": 2.0, "focal_alpha": 0.99}, "2.3.2",
             Reported(0.059, 278.90, 38_652_256)),
        Step("+deep_heads", {"head_depth": 4, "head_channels": neck_channels}, "2.3.3", Reported(0.047, 396.11, 45_736_288)),
        Step("+bias", {"bias_init": "prior", "prior_probability": 0.01}, "2.3.4", Reported(0.056, 396.03, 45_736_288)),
        Step("+anchors", ANCHORS, "2.4, its anchors", Reported(parameters=45_886_178)),
        Step("+adam", {"optimizer": "adam", "lr": 5e-4}, "2.4", Reported(0.072, 395.47, 45_886_178)),
        Step("+6000_iterations", longer, "2.5, its length"),
        # 0.164 stands in the report's figure and on its leaderboard; its text contradicts both.
        Step("+extended_data", {"train_split": "extended"}, "2.5", Reported(0.164, None, 45_886_178), optional=True),
    )  # fmt: skip


# What can be searched around a step; what the step's detector does not read is left alone.
FIELDS: dict[str, SpaceEntry] = {
    "lr": When(
        "optimizer",
        {"sgd": Float(1e-3, 5e-2, log=True), "adam": Float(1e-4, 5e-3, log=True), "adamw": Float(1e-4, 5e-3, log=True)},
    ),
    "weight_decay": Float(1e-5, 1e-2, log=True),
    "flip_probability": Float(0.0, 0.5),
    "match_iou_high": Float(0.3, 0.5),
    "box_loss": Choice("smooth_l1", "giou", "ciou"),
    "negatives_per_positive": When("class_loss", {"hard_negatives": Float(2.0, 6.0)}),
    "focal_gamma": When("class_loss", {"focal": Float(1.0, 3.0)}),
    "focal_alpha": When("class_loss", {"focal": Float(0.5, 0.99)}),
    "repeat_threshold": Choice(0.0, 0.3),
    "mosaic_probability": Choice(0.0, 0.5),
    "copy_paste_probability": Choice(0.0, 0.5),
}

# Narrow and at half the sweep: minutes on two cores. The learning rates stay the report's.
CPU = {"width": 0.25, "neck_channels": 16, "batch_size": 4, "steps": 40, "epochs": 3}

SPACE = Space(
    name="tdt4265_report",
    about="a report's hand-run ablation, from SSD to RetinaNet, its confounded steps taken apart",
    profiles={
        "cpu": Profile(
            {
                **BASE,
                "trunk_width": CPU["width"],
                "batch_size": CPU["batch_size"],
                "steps_per_epoch": CPU["steps"],
                "warmup_epochs": CPU["epochs"] / 2,
            },
            FIELDS,
            Budget(trials=12, epochs=int(CPU["epochs"]), grace=1, eta=2),
            max_pixels=82_000,
            street=StreetData(train=400, val=100, test=100, degrees=180, extended=800),
            chain=chain(int(CPU["neck_channels"]), int(CPU["steps"]), CPU["epochs"] / 2),
        ),
        "gpu": Profile(
            {
                **BASE,
                "trunk_width": 1.0,
                "batch_size": 32,
                "steps_per_epoch": 50,
                "warmup_epochs": 10.0,
            },
            FIELDS,
            Budget(trials=16, epochs=20, grace=2, eta=3),
            max_pixels=1_100_000,
            street=StreetData(train=1604, val=301, test=301, degrees=360, extended=4800),
            chain=chain(128, 50, 10.0),
        ),
    },
)
