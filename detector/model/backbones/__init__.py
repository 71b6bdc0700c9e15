"""Trunks: images in, feature maps of the levels that the neck reads out. `make_trunk` builds the one that a config names.

Ours (resnet18 .. resnet101, report_ssd) have any width; every other name is a timm model at its own. A trunk starts from
random weights: detector/model/pretrained.py loads others. May import detector.config and the norms, nothing else of ours.
"""

from __future__ import annotations

from detector.config import DetectorConfig
from detector.config_rules import RESNETS
from detector.model.backbones.report_ssd import ReportTrunk
from detector.model.backbones.resnet import ResNetTrunk
from detector.model.backbones.trunk import Trunk


def make_trunk(config: DetectorConfig) -> Trunk:
    """The trunk of a config: maps of `neck_levels`, and their channels as `out_channels`; its frozen stages are frozen.

    Raises: ConfigError for a trunk that there is not, or that has no maps of these levels.
    """
    trunk: Trunk
    if config.trunk == "report_ssd":
        trunk = ReportTrunk(config)
    elif config.trunk in RESNETS:
        trunk = ResNetTrunk(config)
    else:
        from detector.model.backbones.timm_trunk import TimmTrunk  # timm takes half a second to import

        trunk = TimmTrunk(config)
    trunk.freeze(config.frozen_stages)
    return trunk
