"""torchvision's RetinaNets by our names: every weight of theirs has one place in our detector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from detector.model.norms import EPS

COCO_CLASSES: list[str] = list(RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"])  # 91, some of them "N/A"

HEADS = {"head.classification_head.": "head.classification.0.", "head.regression_head.": "head.regression.0."}
BLOCKS = {
    "backbone.body.": "trunk.",
    "backbone.fpn.extra_blocks.p6.": "neck.extra.convs.0.",
    "backbone.fpn.extra_blocks.p7.": "neck.extra.convs.1.",
    "head.classification_head.cls_logits.": "head.classification.0.output.",
    "head.regression_head.bbox_reg.": "head.regression.0.output.",
    **{f"backbone.fpn.inner_blocks.{n}.0.": f"neck.lateral.{n}." for n in range(3)},
    **{f"backbone.fpn.layer_blocks.{n}.0.": f"neck.output.{n}." for n in range(3)},
    # A layer of a head's tower is a convolution (0) and, in v2, a group norm (1).
    **{f"{theirs}conv.{n}.0.": f"{ours}convs.{n}." for theirs, ours in HEADS.items() for n in range(4)},
    **{f"{theirs}conv.{n}.1.": f"{ours}norms.0.{n}." for theirs, ours in HEADS.items() for n in range(4)},
    # The published file of v1 has the names of torchvision 0.11: layers lie flat, a ReLU after each convolution of a tower.
    **{f"backbone.fpn.inner_blocks.{n}.": f"neck.lateral.{n}." for n in range(3)},
    **{f"backbone.fpn.layer_blocks.{n}.": f"neck.output.{n}." for n in range(3)},
    **{f"{theirs}conv.{2 * n}.": f"{ours}convs.{n}." for theirs, ours in HEADS.items() for n in range(4)},
}  # fmt: skip


def is_torchvision_detector(state: Mapping[str, Tensor]) -> bool:
    """Whether a state_dict is one of torchvision's RetinaNets."""
    return any(key.startswith("backbone.body.") for key in state)


def as_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state_dict of a torchvision RetinaNet by our names; what has no place with us keeps its name."""
    return {_ours(key): value for key, value in state.items()}


def _ours(key: str) -> str:
    for theirs, ours in BLOCKS.items():  # today's names stand before those of 0.11 that they begin with
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def without_eps(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a frozen norm that adds nothing to the variance, for one that adds EPS: their scale takes it up.

    torchvision's COCO weights of v1 were trained so (its `overwrite_eps(model, 0.0)`).
    """
    made = dict(state)
    for key, variance in state.items():
        if key.startswith("trunk.") and key.endswith(".running_var"):
            name = key.removesuffix("running_var") + "weight"
            made[name] = (state[name].double() * torch.sqrt(1.0 + EPS / variance.double())).to(state[name].dtype)
    return made
