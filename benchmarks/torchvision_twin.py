"""Our detector as the twin of torchvision's `retinanet_resnet50_fpn`: the same settings, the same weights."""

from __future__ import annotations

from typing import Any

from torchvision.models.detection import RetinaNet

from detector.config import DetectorConfig
from detector.model.detector import Detector
from detector.model.torchvision_names import as_ours

# torchvision.models.detection.retinanet._default_anchorgen
SIZES = tuple((float(x), float(int(x * 2 ** (1 / 3))), float(int(x * 2 ** (2 / 3)))) for x in (32, 64, 128, 256, 512))
# What torchvision's function makes, as fields of ours; it leaves the canvas, the norm and how it is trained to its caller.
AS_TORCHVISION: dict[str, Any] = {
    "trunk": "resnet50", "trunk_width": 1.0, "neck_levels": (3, 4, 5), "neck_channels": 256, "extra_levels": 2,
    "extra_levels_from": "neck",  # its LastLevelP6P7(256, 256) reads P5
    "head_depth": 4, "head_channels": 256, "anchor_sizes": SIZES, "anchor_scales": (1.0,), "anchor_ratios": (0.5, 1.0, 2.0),
    "anchor_offset": 0.0, "anchor_rounding": True, "match_iou_high": 0.5, "match_iou_low": 0.4, "match_force_best": True,
    "focal_gamma": 2.0, "focal_alpha": 0.25, "box_loss": "smooth_l1", "smooth_l1_beta": 0.0, "loss_normalization": "image",
}  # fmt: skip


def twin_of(reference: RetinaNet, config: DetectorConfig, num_classes: int) -> Detector:
    """Our detector holding every weight of torchvision's (a frozen norm counts no batches)."""
    state = as_ours(reference.state_dict())
    if config.norm == "frozen":
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    model = Detector(config, num_classes)
    model.load_state_dict(state, strict=True)
    return model
