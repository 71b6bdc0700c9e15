"""Images a second of a training step of RetinaNet on ResNet-50 FPN, 128 x 1024, 9 classes: torchvision's and ours.

Three times: both with the same settings (all layers trained, batch norm, fp32, torch's own SGD, the same float tensors in
0..1), each in its own memory layout (ours: channels_last) and then both in the plain one; and each with its own defaults (ours:
uint8 batches, channels_last, bf16 where the hardware has it, fused AdamW; theirs: as its detection reference, fp32 and SGD).
Both start from the same weights, and their losses on the first batch must be equal. Each side trains in a process of its own:
ours keeps freed memory, as where it trains without a memory limit (detector/memory.py); theirs has what torch does by itself.
`python -m benchmarks.training_step`; runs without ray.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn

from benchmarks.sides import APART, OF_ITS_PROCESS, ROUNDS, Claim, Measured, in_turn_apart, print_table, seconds_of
from benchmarks.torchvision_twin import AS_TORCHVISION, twin_of
from detector.config import DetectorConfig
from detector.data.augment import normalise_plainly
from detector.memory import keep_freed_memory
from detector.model.detector import Detector, Targets
from detector.optimizer import make_optimizer
from detector.trainer import wants_bf16

NUM_CLASSES, HEIGHT, WIDTH, BOXES = 9, 128, 1024, 12  # boxes an image: the median of the report's
ALIKE = {"optimizer": "sgd", "precision": "fp32", "channels_last": True}
KINDS: dict[str, dict[str, Any]] = {
    "equal settings": ALIKE,
    "equal settings, both in the plain layout": {**ALIKE, "channels_last": False},
    "defaults": {"optimizer": "adamw", "precision": "auto", "channels_last": True},
}
BARS = {"cpu": (1.1, None, 2.2), "cuda": (1.5, None, 4.0)}
BATCH = {"cpu": 4, "cuda": 32}
# A round: training takes many in a row, and the first finds the other side's data in the caches.
STEPS = {"cpu": 4, "cuda": 10}
SETTINGS: dict[str, Any] = {
    **AS_TORCHVISION, "image_size_px": (HEIGHT, WIDTH), "norm": "batch", "clip_norm": 0.0, "normalization": "imagenet",
    "weight_decay": 1e-4, "lr": 1e-5,
}  # fmt: skip
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Batch:
    """The same images and boxes as each side takes them, laid out before the clock runs."""

    def __init__(self, images: Tensor, targets: Targets) -> None:
        """images: (B, H, W, 3) uint8."""
        self.images, self.targets = images, targets
        # torchvision's: a list of float tensors (3, H, W) in 0..1 and one of dicts.
        self.float_images = [image.permute(2, 0, 1).contiguous().float() / 255 for image in images]
        both = zip(targets.boxes_xyxy, targets.labels, strict=True)
        self.rows = [{"boxes": boxes, "labels": labels} for boxes, labels in both]
        shape, device = (3, 1, 1), images.device
        self.mean, self.std = MEAN.to(device), STD.to(device)
        self.mean_3hw, self.std_3hw = self.mean.view(shape), self.std.view(shape)

    def normalised_floats(self) -> Tensor:
        """What a caller with float tensors gives our detector: stacked and normalised, which torchvision's does inside."""
        return (torch.stack(self.float_images) - self.mean_3hw) / self.std_3hw

    def normalised_bytes(self) -> Tensor:
        """What our own batches are made from."""
        return normalise_plainly(self.images, self.mean, self.std)


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
    model = twin_of(reference, config, NUM_CLASSES)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return model.train().to(memory_format=layout).to(device)


def torchvision_step(model: RetinaNet, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """One optimizer step, as torchvision's detection reference takes it."""
    losses: dict[str, Tensor] = model(batch.float_images, batch.rows)
    loss = sum(losses.values(), torch.zeros((), device=batch.images.device))
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def our_step(model: Detector, optimizer: torch.optim.Optimizer, batch: Batch, defaults: bool, bf16: bool) -> None:
    """One optimizer step of ours."""
    images = batch.normalised_bytes() if defaults else batch.normalised_floats()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
        classification, box = model.losses(images, batch.targets)
    (classification + box).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def check_equal(reference: RetinaNet, ours: Detector, batch: Batch) -> None:
    """Raises: AssertionError unless both have as many parameters to train and the same losses on a batch."""

    def count(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    assert count(reference) == count(ours), (count(reference), count(ours))
    with torch.no_grad():
        theirs = reference(batch.float_images, batch.rows)
        found = ours.losses(batch.normalised_bytes(), batch.targets)
    torch.testing.assert_close(found[0], theirs["classification"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], theirs["bbox_regression"], rtol=1e-4, atol=1e-4)


def batches_of(device: str, size: int) -> list[Batch]:
    """What both sides train on, in turn."""
    return [make_batch(size, device, seed) for seed in range(2)]


def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    """torch's own, as torchvision's detection reference makes it."""
    return torch.optim.SGD(model.parameters(), lr=SETTINGS["lr"], momentum=0.9, weight_decay=1e-4)


def images_per_second(step: Callable[[Batch], object], batches: list[Batch], steps: int) -> float:
    """Of so many steps."""

    def run() -> None:
        for n in range(steps):
            step(batches[n % len(batches)])

    return steps * len(batches[0].images) / seconds_of(run)


def their_side(device: str, size: int, steps: int) -> Callable[[], float]:
    """torchvision's, ready to be measured."""
    model, batches = torchvision_model(device), batches_of(device, size)
    optimizer = plain_sgd(model)
    return lambda: images_per_second(lambda batch: torchvision_step(model, optimizer, batch), batches, steps)


def our_side(device: str, size: int, steps: int, kind: str) -> Callable[[], float]:
    """Ours from torchvision's weights, with equal losses, ready to be measured."""
    where, defaults = torch.device(device), kind == "defaults"
    config = DetectorConfig(**{**SETTINGS, **KINDS[kind]})
    reference, batches = torchvision_model(device), batches_of(device, size)
    model = our_model(reference, config, device)
    check_equal(reference, model, batches[0])
    del reference
    keep_freed_memory()
    optimizer = make_optimizer(model, config) if defaults else plain_sgd(model)
    bf16 = wants_bf16(config.precision, where)
    return lambda: images_per_second(lambda batch: our_step(model, optimizer, batch, defaults, bf16), batches, steps)


def compare(device: str, size: int, kind: str, rounds: int) -> dict[str, Measured]:
    """Images a second of both sides."""
    sides = {
        "theirs": partial(their_side, device, size, STEPS[device]),
        "ours": partial(our_side, device, size, STEPS[device], kind),
    }
    return in_turn_apart(sides, rounds, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batch-size", type=int, help="images a step (default: 4 on a CPU, 32 on a GPU)")
    options = parser.parse_args()
    claims = []
    for device in ("cpu", "cuda"):
        here = device == "cpu" or torch.cuda.is_available()
        for kind, bar in zip(KINDS, BARS[device], strict=True):
            size = options.batch_size or BATCH[device]
            found = compare(device, size, kind, options.rounds) if here else {}
            what = f"{'CPU' if device == 'cpu' else 'GPU'}, batch {size}, {kind}"
            claims.append(Claim(what, "images/s", bar, found.get("theirs"), found.get("ours"), more_is_better=True))
    about = "Training step, RetinaNet on ResNet-50 FPN, 128 x 1024, 9 classes: torchvision's and ours."
    print_table(claims, about, how=APART, memory=OF_ITS_PROCESS)


if __name__ == "__main__":
    main()
