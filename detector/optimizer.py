"""The optimizer of a detector: parameters in groups by part and kind, each with its own share of the learning rate."""

from __future__ import annotations

import torch
from torch import nn

from detector.config import DetectorConfig
from detector.model.backbones.resnet import FRESH_BLOCKS

FUSION_WEIGHTS = ("down_weights", "up_weights", "top_weights")  # BiFPN's: weights of maps, no filters


def make_optimizer(model: nn.Module, config: DetectorConfig) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW; weight decay acts on filters, not on norms, biases and a BiFPN's fusion weights.

    Each group holds `lr_factor`, its rate over the schedule's: `trunk_lr_factor` for a pretrained trunk, 1 for the rest.
    """
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.sgd_momentum, fused=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=(0.9, config.adam_beta2), fused=True)


def parameter_groups(model: nn.Module, config: DetectorConfig) -> list[dict[str, object]]:
    """What is trained, by part (the rest, then the trunk where its rate differs) and by whether it decays; none is empty."""
    factor = config.trunk_lr_factor if config.pretrained != "none" else 1.0
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and name.rpartition(".")[2] not in FUSION_WEIGHTS
            in_trunk = name.removeprefix("trunk.")
            part = factor if in_trunk != name and not in_trunk.startswith(FRESH_BLOCKS) else 1.0
            groups.setdefault((part, decays), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0, "lr_factor": part}
        for (part, decays), parameters in groups.items()
        if parameters
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The schedule's rate, times each group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
