"""Images a second of a training step of RetinaNet on ResNet-50 FPN, 128 x 1024, 9 classes: torchvision's and ours.

Twice: both with the same settings (all layers trained, batch norm, fp32, SGD), and each with its own defaults (ours:
bf16 where the hardware has it, fused AdamW; theirs: fp32, AdamW as torch has it). Both start from the same weights, and
their losses on the first batch must be equal. `python -m benchmarks.training_step`; runs without ray.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn

from benchmarks.sides import ROUNDS, Claim, Measured, in_turn, print_table, seconds_of
from detector.config import DetectorConfig
from detector.data.augment import normalise_plainly
from detector.model.detector import Detector, Targets
from detector.trainer import make_optimizer, wants_bf16

NUM_CLASSES, HEIGHT, WIDTH, BOXES = 9, 128, 1024, 12  # boxes an image: the median of the report's
BARS = {"cpu": (1.1, 2.2), "cuda": (1.5, 4.0)}  # at equal settings, at each one's defaults
BATCH = {"cpu": 4, "cuda": 32}
STEPS = {"cpu": 1, "cuda": 10}  # a round
# torchvision.models.detection.retinanet._default_anchorgen
SIZES = tuple((float(x), float(int(x * 2 ** (1 / 3))), float(int(x * 2 ** (2 / 3)))) for x in (32, 64, 128, 256, 512))
SETTINGS: dict[str, Any] = {
    "image_size_px": (HEIGHT, WIDTH), "trunk": "resnet50", "trunk_width": 1.0, "norm": "batch", "neck_levels": (3, 4, 5),
    "neck_channels": 256, "extra_levels": 2, "extra_levels_from": "neck", "head_depth": 4, "head_channels": 256,
    "anchor_sizes": SIZES, "anchor_scales": (1.0,), "anchor_ratios": (0.5, 1.0, 2.0), "anchor_offset": 0.0,
    "anchor_rounding": True, "smooth_l1_beta": 0.0, "loss_normalization": "image", "clip_norm": 0.0,
    "normalization": "imagenet", "weight_decay": 1e-4, "lr": 1e-5,
}  # fmt: skip
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Batch:
    """The same images and boxes as each side takes them."""

    images: Tensor  # (B, H, W, 3) uint8
    targets: Targets

    def for_torchvision(self) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """A list of float tensors (3, H, W) in 0..1 and one of dicts."""
        images = [image.permute(2, 0, 1).float() / 255 for image in self.images]
        boxes, labels = self.targets.boxes_xyxy, self.targets.labels
        return images, [{"boxes": b, "labels": k} for b, k in zip(boxes, labels, strict=True)]

    def for_ours(self) -> tuple[Tensor, Targets]:
        """A normalised batch, as augmentation leaves it."""
        return normalise_plainly(self.images, MEAN.to(self.images.device), STD.to(self.images.device)), self.targets


def make_batch(size: int, device: str, seed: int) -> Batch:
    """Random pixels, and boxes of the sizes of road users."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (size, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator)
    sides = torch.rand(size, BOXES, 2, generator=generator) * torch.tensor([38.0, 45.0]) + 6
    corner = torch.rand(size, BOXES, 2, generator=generator) * (torch.tensor([WIDTH, HEIGHT]) - sides)
    labels = torch.randint(NUM_CLASSES, (size, BOXES), generator=generator)
    boxes = torch.cat([corner, corner + sides], dim=-1)
    return Batch(images.to(device), Targets(boxes.to(device), labels.to(device)))


def torchvision_model(device: str) -> RetinaNet:
    """torchvision's own function, told that the images have their size already."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = retinanet_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=NUM_CLASSES, min_size=HEIGHT, max_size=WIDTH
        )
    return model.train().to(device)


def our_model(reference: RetinaNet, config: DetectorConfig, device: str) -> Detector:
    """Our detector, holding every weight of torchvision's."""
    names = {
        "backbone.body.": "trunk.", "backbone.fpn.extra_blocks.p6.": "neck.extra.convs.0.",
        "backbone.fpn.extra_blocks.p7.": "neck.extra.convs.1.",
        "head.classification_head.cls_logits.": "head.classification.0.output.",
        "head.regression_head.bbox_reg.": "head.regression.0.output.",
        **{f"backbone.fpn.inner_blocks.{n}.0.": f"neck.lateral.{n}." for n in range(3)},
        **{f"backbone.fpn.layer_blocks.{n}.0.": f"neck.output.{n}." for n in range(3)},
        **{f"head.classification_head.conv.{n}.0.": f"head.classification.0.convs.{n}." for n in range(4)},
        **{f"head.regression_head.conv.{n}.0.": f"head.regression.0.convs.{n}." for n in range(4)},
    }  # fmt: skip
    state = {}
    for key, value in reference.state_dict().items():
        prefix = next(prefix for prefix in names if key.startswith(prefix))
        state[names[prefix] + key.removeprefix(prefix)] = value
    model = Detector(config, NUM_CLASSES)
    model.load_state_dict(state, strict=True)
    return model.train().to(memory_format=torch.channels_last).to(device)


def torchvision_step(model: RetinaNet, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, Tensor]:
    """One optimizer step, as torchvision's detection reference takes it."""
    images, targets = batch.for_torchvision()
    losses: dict[str, Tensor] = model(images, targets)
    loss = sum(losses.values(), torch.zeros((), device=batch.images.device))
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return losses


def our_step(model: Detector, optimizer: torch.optim.Optimizer, batch: Batch, bf16: bool) -> tuple[Tensor, Tensor]:
    """One optimizer step of ours."""
    images, targets = batch.for_ours()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
        classification, box = model.losses(images, targets)
    (classification + box).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return classification.detach(), box.detach()


def check_equal(reference: RetinaNet, ours: Detector, batch: Batch) -> None:
    """Raises: AssertionError unless both have as many parameters to train and the same losses on a batch."""

    def count(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    assert count(reference) == count(ours), (count(reference), count(ours))
    images, rows = batch.for_torchvision()
    with torch.no_grad():
        theirs = reference(images, rows)
        found = ours.losses(*batch.for_ours())
    torch.testing.assert_close(found[0], theirs["classification"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], theirs["bbox_regression"], rtol=1e-4, atol=1e-4)


def compare(device: str, batch_size: int, defaults: bool, rounds: int, steps: int) -> dict[str, Measured]:
    """Images a second of both sides; `defaults`: each with its own precision and optimizer, else fp32 and SGD."""
    kind = torch.device(device)
    optimizer = "adamw" if defaults else "sgd"
    config = DetectorConfig(**{**SETTINGS, "optimizer": optimizer, "precision": "auto" if defaults else "fp32"})
    reference = torchvision_model(device)
    ours = our_model(reference, config, device)
    batches = [make_batch(batch_size, device, seed) for seed in range(2)]
    check_equal(reference, ours, batches[0])
    if defaults:
        plain: torch.optim.Optimizer = torch.optim.AdamW(reference.parameters(), lr=config.lr, weight_decay=1e-4)
    else:
        plain = torch.optim.SGD(reference.parameters(), lr=config.lr, momentum=0.9, weight_decay=1e-4)
    fused = make_optimizer(ours, config, kind)
    bf16 = wants_bf16(config.precision, kind)

    def rate(step: Callable[[Batch], object]) -> float:
        def run() -> None:
            for n in range(steps):
                step(batches[n % len(batches)])

        return steps * batch_size / seconds_of(run)

    return in_turn(
        {
            "theirs": lambda: rate(lambda batch: torchvision_step(reference, plain, batch)),
            "ours": lambda: rate(lambda batch: our_step(ours, fused, batch, bf16)),
        },
        rounds,
        device=device,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batch-size", type=int, help="images a step (default: 4 on a CPU, 32 on a GPU)")
    options = parser.parse_args()
    claims = []
    for device in ("cpu", "cuda"):
        here = device == "cuda" if torch.cuda.is_available() else device == "cpu"
        for defaults, bar in zip((False, True), BARS[device], strict=True):
            size = options.batch_size or BATCH[device]
            what = (
                f"{'CPU' if device == 'cpu' else 'GPU'}, batch {size}, {'defaults' if defaults else 'equal settings'}"
            )
            found = compare(device, size, defaults, options.rounds, STEPS[device]) if here else {}
            claims.append(Claim(what, "images/s", bar, found.get("theirs"), found.get("ours"), more_is_better=True))
    print_table(claims, "Training step, RetinaNet on ResNet-50 FPN, 128 x 1024, 9 classes: torchvision's and ours.")


if __name__ == "__main__":
    main()
