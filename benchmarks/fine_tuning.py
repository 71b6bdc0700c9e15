"""The step of a pretrained EfficientNet-Lite0 detector: with its first stages frozen, and with torch's depthwise gradients.

320 x 256 pixels, 4 images, the default space's base. `python -m benchmarks.fine_tuning`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.sides import APART, OF_ITS_PROCESS, ROUNDS, Claim, in_turn_apart, print_table, seconds_of
from detector.config import DetectorConfig
from detector.memory import keep_freed_memory
from detector.model.depthwise import DepthwiseConv2d
from detector.model.detector import Detector, Targets
from detector.optimizer import make_optimizer
from detector.trainer import wants_bf16
from spaces.retinanet import CPU_BASE
from spaces.space import FITTED

NUM_CLASSES, HEIGHT, WIDTH, BATCH, BOXES, STEPS = 4, 256, 320, 4, 12, 8
BAR_FROZEN = 1.5
BASE: dict[str, Any] = {
    **{name: value for name, value in CPU_BASE.items() if value != FITTED}, "image_size_px": (HEIGHT, WIDTH), "anchor_sizes": 28.0,
    "frozen_stages": 0,
}  # fmt: skip


def side(stages: int, plain_depthwise: bool) -> Callable[[], float]:
    """Images a second of the step, ready to be measured."""
    config = DetectorConfig(**{**BASE, "frozen_stages": stages})
    torch.manual_seed(0)
    model = Detector(config, NUM_CLASSES).to(memory_format=torch.channels_last).train()
    if plain_depthwise:
        as_torch(model)
    keep_freed_memory()
    optimizer = make_optimizer(model, config)
    images = torch.randn(BATCH, 3, HEIGHT, WIDTH).to(memory_format=torch.channels_last)
    corner = torch.rand(BATCH, BOXES, 2) * torch.tensor([WIDTH / 2, HEIGHT / 2])
    targets = Targets(torch.cat([corner, corner + 40], dim=-1), torch.zeros(BATCH, BOXES, dtype=torch.int64))
    bf16 = wants_bf16(config.precision, torch.device("cpu"))

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                classification, box = model.losses(images, targets)
            (classification + box).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return lambda: STEPS * BATCH / seconds_of(steps)


def as_torch(module: nn.Module) -> None:
    """Puts torch's own depthwise convolutions back."""
    for child in module.modules():
        if isinstance(child, DepthwiseConv2d):
            child.fast = False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fine_tuning", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    rows = [
        ("the first three stages frozen, against none", BAR_FROZEN, (0, False), (3, False)),
        ("the first two stages frozen (the base), against none", None, (0, False), (2, False)),
        ("none frozen, our depthwise gradients against torch's", None, (0, True), (0, False)),
    ]
    claims = []
    for what, bar, theirs, ours in rows:
        found = in_turn_apart(
            {"theirs": partial(side, *theirs), "ours": partial(side, *ours)}, options.rounds, device="cpu"
        )
        claims.append(Claim(what, "images/s", bar, found["theirs"], found["ours"], more_is_better=True))
    about = f"Training step of EfficientNet-Lite0, {HEIGHT} x {WIDTH}, {BATCH} images, on a CPU."
    print_table(claims, about, how=APART, memory=OF_ITS_PROCESS)


if __name__ == "__main__":
    main()
