"""How much disk and device memory a study's largest configuration takes, measured in a process of its own.

The process is started before the data is read and imports torch meanwhile: its first line says whether torch works at all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from detector.config import ConfigError, DetectorConfig
from spaces.distributions import Choice, Integer, When
from spaces.space import ResolvedSpace

MEMORY_MARGIN = 1.25  # of a probed peak: fragmentation, and batches with more boxes
STATES_OF = {"sgd": 1, "adam": 2, "adamw": 2}  # tensors that an optimizer keeps beside each weight


class Sizer:
    """The process that imports torch while the plan is made."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "search.sizes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def problem(self) -> str:
        """Why torch does not work here; "" where it does."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def measure(self, space: ResolvedSpace, class_names: Sequence[str], with_memory: bool) -> dict[str, Any]:
        """What only a built detector tells; {} if that failed.

        "checkpoint_bytes", and on a GPU "peak_bytes" and "device_bytes", of the space's largest config; "start", what its base
        loads of its weights, in words, and "weights", where those come from, [] for random ones.

        Raises: ConfigError for a trunk or weights that cannot be had or do not fit, of the base or a searched option.
        """
        job = {"space": space.to_dict(), "class_names": list(class_names), "with_memory": with_memory}
        out, _ = self._process.communicate(json.dumps(job) + "\n")
        told = json.loads(out) if out.strip() else {}
        assert isinstance(told, dict)
        if "problem" in told:
            raise ConfigError(told["problem"])
        return told

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def largest(space: ResolvedSpace, size_of: Callable[[DetectorConfig], float]) -> DetectorConfig:
    """The base with, of every discrete field, the option that makes it largest; options that cannot go together stay out."""
    config = space.base
    for name, entry in space.fields.items():
        if isinstance(entry, When):
            continue
        options = entry.options if isinstance(entry, Choice) else (entry.high,) if isinstance(entry, Integer) else ()
        for option in options:
            try:
                candidate = config.with_values({name: option})
            except ConfigError:
                continue
            if size_of(candidate) > size_of(config):
                config = candidate
    return config


def starts(space: ResolvedSpace) -> list[DetectorConfig]:
    """The base, and the base with each searched trunk and start: what must be there before any trial trains."""
    configs = [space.base]
    for name in ("trunk", "pretrained"):
        entry = space.fields.get(name)
        for option in entry.options if isinstance(entry, Choice) else ():
            try:
                configs.append(space.config({name: option}))
            except ConfigError:  # the two are chosen together, by a condition of the space
                continue
    return list({config.hash(): config for config in configs}.values())


def load_starts(space: ResolvedSpace, class_names: Sequence[str]) -> dict[str, Any]:
    """{"start": what the base loads, in words; "weights": where the weights of all starts come from}.

    Raises: ConfigError for a trunk or weights that cannot be had or do not fit.
    """
    from detector.model.detector import Detector
    from detector.model.pretrained import load_start
    from detector.weights import weights_of

    configs = starts(space)
    told = [load_start(Detector(config, len(class_names)), config, class_names).describe() for config in configs]
    sources = [source for config in configs if (source := weights_of(config))]
    return {"start": told[0], "weights": [source.to_dict() for source in dict.fromkeys(sources)]}


def gpu_fraction(peak_bytes: int, device_bytes: int) -> float:
    """The share of a GPU that a trial is given: 1 / n for the most trials n that fit with a margin."""
    fit = max(1, int(device_bytes // (peak_bytes * MEMORY_MARGIN)))
    return 1.0 / fit


def checkpoint_bytes(config: DetectorConfig, num_classes: int) -> int:
    """What a checkpoint of a config takes: weights, averaged weights and the optimizer's state."""
    from detector.model.detector import Detector

    weights: int = sum(t.numel() * t.element_size() for t in Detector(config, num_classes).state_dict().values())
    return weights * (1 + (config.ema_decay > 0) + STATES_OF[config.optimizer])


def peak_bytes(config: DetectorConfig, num_classes: int) -> int:
    """The most GPU memory that one optimizer step of a config holds, with a hundred boxes an image."""
    import torch

    from detector.model.detector import Detector, Targets
    from detector.optimizer import make_optimizer
    from detector.trainer import wants_bf16

    device = torch.device("cuda")
    model = Detector(config, num_classes).to(device)
    optimizer = make_optimizer(model, config)
    height, width = config.image_size_px
    images = torch.rand(config.batch_size, 3, height, width, device=device)
    corner = torch.rand(config.batch_size, 100, 2, device=device) * torch.tensor([width / 2, height / 2], device=device)
    targets = Targets(
        torch.cat([corner, corner * 2 + 1], dim=-1), torch.zeros(len(images), 100, dtype=torch.int64, device=device)
    )
    torch.cuda.reset_peak_memory_stats(device)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=wants_bf16(config.precision, device)):
        classification, box = model.losses(images, targets)
    (classification + box).backward()
    optimizer.step()
    return int(torch.cuda.max_memory_reserved(device))


def main() -> None:
    """The process's side: one line about torch, then one job from standard input."""
    from detector.torch_pair import torch_pair_problem

    problem = torch_pair_problem()
    print(problem, flush=True)
    line = sys.stdin.readline()
    if problem or not line:
        return
    import torch

    job = json.loads(line)
    space, num_classes = ResolvedSpace.from_dict(job["space"]), len(job["class_names"])
    sizes: dict[str, int] = {}

    def size_of(config: DetectorConfig) -> float:
        if config.hash() not in sizes:
            sizes[config.hash()] = checkpoint_bytes(config, num_classes)
        return sizes[config.hash()] + config.batch_size * config.image_size_px[0] * config.image_size_px[1]

    try:
        told = load_starts(space, job["class_names"])
    except ConfigError as error:
        print(json.dumps({"problem": str(error)}))
        return
    config = largest(space, size_of)
    told["checkpoint_bytes"] = checkpoint_bytes(config, num_classes)
    if job["with_memory"] and torch.cuda.is_available():
        total = int(torch.cuda.get_device_properties(0).total_memory)
        told |= {"peak_bytes": peak_bytes(config, num_classes), "device_bytes": total}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
