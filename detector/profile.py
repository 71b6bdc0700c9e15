"""`python -m detector.profile --space S | --config FILE`: parameters, FLOPs, speed and memory, a row a step or config.

A batch is timed from normalised images to detections (forward, decoding, NMS), after `--warmup` batches; the figure is
the median of `--repeats`. Weights are fresh, so how many boxes reach NMS depends on the initial bias, as nothing else does. `--data DIR` adds how many images a second the training batches come at.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detector.commands import CommandError, check_device, check_torch_pair, command
from detector.config import DetectorConfig
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource, DetectionDataset

WARMUP, REPEATS = 2, 5
STREET_CLASSES = 8
DATA_BATCHES = 30


def profile_config(
    config: DetectorConfig, num_classes: int, device: str | None = None, batch_size: int = 0, warmup: int = WARMUP,
    repeats: int = REPEATS, only_parameters: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Size and speed of one config's detector with fresh weights; `batch_size` 0 takes the config's own.

    No weights are read: what they are does not change size or speed.
    """
    import torch

    from detector.model.detector import Detector
    from detector.trainer import default_device, wants_bf16

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Detector(config, num_classes)
    told: dict[str, Any] = {
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "anchors": len(model.anchors_xyxy),
    }
    if only_parameters:
        return told
    where = torch.device(device or default_device())
    batch = batch_size or config.batch_size
    images = torch.randn(batch, 3, *config.image_size_px, generator=torch.Generator().manual_seed(0)).to(where)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    model = model.to(where).eval()
    told["gflops_per_image"] = round(count_flops(model, images[:1]) / 1e9, 3)
    bf16 = wants_bf16(config.precision, where)

    def detect() -> None:
        with torch.no_grad(), torch.autocast(where.type, dtype=torch.bfloat16, enabled=bf16):
            logits, box_regression = model(images)
        model.postprocess(logits, box_regression, model.anchors_xyxy)
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    reset_peak_memory(where)
    seconds = statistics.median(timed(detect, warmup, repeats))
    return {
        **told,
        "batch_size": batch,
        "ms_per_batch": round(1000 * seconds, 3),
        "ms_per_image": round(1000 * seconds / batch, 4),
        "images_per_s": round(batch / seconds, 2),
        "peak_memory_mib": round(peak_memory_bytes(where) / 2**20, 1),
        "warmup_batches": warmup,
        "timed_batches": repeats,
        "precision": "bf16" if bf16 else "fp32",
        "threads": torch.get_num_threads(),
        "device": device_name(where),
    }


def timed(call: Any, warmup: int, repeats: int) -> Iterator[float]:
    """Seconds of each of `repeats` calls, after `warmup` that do not count."""
    for _ in range(warmup):
        call()
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        yield time.perf_counter() - start


def count_flops(model: Any, image: Any) -> int:
    """Floating-point operations of the forward pass on one image: torch's own counter, a multiply-add being two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(image)
    return int(counter.get_total_flops())


def reset_peak_memory(device: Any) -> None:
    """From here on `peak_memory_bytes` counts anew."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(
        OSError
    ):  # Linux: 5 resets the high-water mark of the resident set (man proc_pid_clear_refs)
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: Any) -> int:
    """Highest memory since the last reset: of the device where it is a GPU, of this process (resident) elsewhere."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def device_name(device: Any) -> str:
    """The GPU's name, or cpu with the number of threads."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """The processor's model."""
    with contextlib.suppress(OSError):  # Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "CPU"


def data_images_per_s(
    config: DetectorConfig, data: Any, device: str | None = None, batches: int = DATA_BATCHES
) -> float:
    """Images a second of normalised, augmented float batches with their boxes, ready for the model; the cache is warm."""
    import torch

    from detector.data.batches import TrainingBatches
    from detector.trainer import default_device

    config = config.with_values({"steps_per_epoch": batches + WARMUP})
    source = TrainingBatches(config, data, seed=0, device=torch.device(device or default_device()))
    epoch = source.epoch(1)
    for _ in range(WARMUP):
        next(epoch)
    start = time.perf_counter()
    images = sum(len(batch) for batch, _ in epoch)
    if source.device.type == "cuda":
        torch.cuda.synchronize(source.device)
    return images / (time.perf_counter() - start)


def configs_of(
    options: argparse.Namespace, dataset: DetectionDataset | None
) -> list[tuple[dict[str, Any], DetectorConfig]]:
    """(what identifies the row, config) of --config, or of every step of --space's chain, or of its base."""
    from detector.train import read_config
    from spaces.chain import resolve_chain
    from spaces.fitting import DatasetFacts
    from spaces.loading import load_space
    from spaces.space import resolve

    if options.config:
        return [({"step": options.config.name, "report_parameters": None}, read_config(options.config))]
    space = load_space(options.space)
    if dataset:
        facts = DatasetFacts(**dataset.facts())
    else:  # nothing is read: half a sweep or a whole one, one box of the report's median size
        facts = DatasetFacts(((128, 512 if options.profile == "cpu" else 1024),), ((22.0, 12.7),), (0,), True)
    resolved = resolve(space, options.profile, facts)
    chain = space.profiles[options.profile].chain
    if not chain:
        return [({"step": "base", "report_parameters": None}, resolved.base)]
    steps, left_out = resolve_chain(chain, resolved.base, {})
    for note in left_out:
        print(note, file=sys.stderr)
    return [
        (
            {"step": s.name, "report_parameters": s.reported.parameters, "report_ms": s.reported.ms_per_batch},
            resolved.base.with_values(s.values),
        )
        for s in steps
    ]


def profile(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a config."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    source = DataSource.from_folder(options.data) if options.data else None
    dataset = load_dataset(source) if source else None
    classes = options.classes or (len(dataset.class_names) if dataset else STREET_CLASSES)
    rows = []
    for about, config in configs_of(options, dataset):
        row = {
            **about,
            **profile_config(
                config,
                classes,
                options.device,
                options.batch_size,
                options.warmup,
                options.repeats,
                options.parameters,
            ),
        }
        if source and not options.parameters and (config.train_split == "train" or source.extended):
            from detector.data.batches import load_training_data

            batch = {"batch_size": options.batch_size or config.batch_size}
            data = load_training_data(source, config.image_size_px, train_split=config.train_split)
            row["data_images_per_s"] = round(data_images_per_s(config.with_values(batch), data, options.device), 1)
        print(f"{row['step']}: {row['trainable_parameters']:,} parameters", file=sys.stderr)
        rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    from results.tables import as_markdown
    from spaces.distributions import SpaceError

    parser = argparse.ArgumentParser(
        prog="python -m detector.profile", description="Parameters, FLOPs, speed and memory of detectors."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--space", help="a space: every step of its chain, or its base where it has none")
    what.add_argument("--config", type=Path, help="YAML or JSON of DetectorConfig fields")
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="of the space (default: cpu)")
    parser.add_argument(
        "--parameters", action="store_true", help="count parameters and anchors only (default: time too)"
    )
    parser.add_argument("--data", help="COCO-format folder: fits the space to it, and times the loading of its images")
    parser.add_argument("--classes", type=int, help=f"object classes (default: the data's, else {STREET_CLASSES})")
    parser.add_argument("--batch-size", type=int, default=0, help="images a batch (default: the config's)")
    parser.add_argument("--warmup", type=int, default=WARMUP, help=f"batches before the clock (default: {WARMUP})")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"batches timed (default: {REPEATS})")
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's own)")
    parser.add_argument("--json", action="store_true", help="print one JSON array and nothing else")
    options = parser.parse_args(arguments)
    with command(SpaceError):
        if min(options.classes or 1, options.repeats) < 1 or min(options.batch_size, options.warmup) < 0:
            raise CommandError("--classes and --repeats must be at least 1, --batch-size and --warmup at least 0")
        check_torch_pair()
        check_device(options.device)
        rows = profile(options)
    print(json.dumps(rows) if options.json else as_markdown(rows))


if __name__ == "__main__":
    main()
