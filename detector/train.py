"""`python -m detector.train --config FILE --data D --out DIR`: trains one config, without ray.

Leaves checkpoint.pt (newest), best.pt (best epoch by mAP, with the score thresholds of best F1), metrics.jsonl (a line
an epoch) and config.yaml; run again with the same --out it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from detector.commands import CommandError, check_device, check_out_folder, check_torch_pair, command
from detector.config import ConfigError, DetectorConfig
from detector.data.cache_rule import CacheRule


def read_config(path: Path, option: str = "--config") -> DetectorConfig:
    """A config from YAML or JSON, e.g. a study's best.yaml or a trial's config.json.

    Raises: ConfigError where the file is no mapping of DetectorConfig fields.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{option} {path}: must be a readable file ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option} {path}: must be YAML or JSON; reading it said: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{option} {path}: must be a mapping of DetectorConfig fields, got a {type(values).__name__}")
    if not all(isinstance(name, str) for name in values):
        raise ConfigError(
            f"{option} {path}: names must be text, got {[n for n in values if not isinstance(n, str)][:3]}"
        )
    return DetectorConfig.from_record(values)


def train(config: DetectorConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Trains to `epochs` and returns the best epoch's result with the paths of what was left."""
    import torch

    from detector.checkpoint import load_checkpoint, save_checkpoint, save_weights
    from detector.data.batches import load_training_data
    from detector.data.dataset import DataSource
    from detector.memory import keep_freed_memory
    from detector.trainer import DivergedError, Trainer

    epochs = config.schedule_epochs if options.epochs is None else options.epochs
    if epochs < 1:
        raise CommandError(f"--epochs must be at least 1, got {epochs}")
    check_out_folder(options.out)
    check_device(options.device)
    if options.threads is not None and options.threads < 1:
        raise CommandError(f"--threads must be at least 1, got {options.threads}")
    source = DataSource.from_options(
        options.data, options.train_annotations, options.train_images, options.val_annotations, options.val_images,
        options.extended_annotations,
    )  # fmt: skip
    if source is None:
        raise CommandError("--data must name a folder with train.json, val.json and images/; nothing was given")
    source.cache = options.cache_rule
    if options.threads:
        torch.set_num_threads(options.threads)
    tell = functools.partial(print, file=sys.stderr)
    data = load_training_data(source, config.image_size_px, options.skip_bad, config.train_split, tell)
    keep_freed_memory()
    trainer = Trainer(config, data, options.seed, options.device, options.official_eval)
    options.out.mkdir(parents=True, exist_ok=True)
    state = load_checkpoint(options.out / "checkpoint.pt")
    if state is not None:
        trainer.load_state_dict(state)
        print(f"going on after epoch {trainer.epoch} of {options.out}", file=sys.stderr)
    (options.out / "config.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    best = max((result.metrics["mAP"] for result in trainer.history), default=-2.0)
    while trainer.epoch < epochs:
        try:
            result = trainer.step()
        except DivergedError as error:
            raise CommandError(
                f"training diverged: {error}. Lower lr, or set clip_norm; {options.out} keeps what was before"
            ) from None
        state = trainer.state_dict()
        if result.metrics["mAP"] > best:
            best = result.metrics["mAP"]
            save_weights(state, options.out / "best.pt")
        save_checkpoint(state, options.out / "checkpoint.pt")
        lines = "".join(json.dumps(row.to_dict()) + "\n" for row in trainer.history)
        (options.out / "metrics.jsonl").write_text(lines)
        print(
            f"epoch {result.epoch:>3}/{epochs}  loss {result.train_loss:.3f}  mAP {result.metrics['mAP']:.3f}  "
            f"AP50 {result.metrics['AP50']:.3f}  {result.seconds:.1f} s",
            file=sys.stderr,
        )
    top = max(trainer.history, key=lambda row: row.metrics["mAP"])
    return {
        "epochs": trainer.epoch, "best_epoch": top.epoch, **top.metrics, "per_class": top.per_class,
        "seconds": round(sum(row.seconds for row in trainer.history), 3), "checkpoint": str(options.out / "best.pt"),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m detector.train", description="Trains one detector config.")
    parser.add_argument(
        "--config", type=Path, required=True, help="YAML or JSON of DetectorConfig fields, e.g. best.yaml"
    )
    parser.add_argument("--data", help="folder with train.json, val.json, images/ (or the four options below)")
    for split in ("train", "val"):
        parser.add_argument(f"--{split}-annotations", help=f"COCO file of the {split} split, instead of --data")
        parser.add_argument(f"--{split}-images", help=f"image folder of the {split} split")
    parser.add_argument(
        "--extended-annotations", help="more training images, for a config whose train_split is extended"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and metrics")
    parser.add_argument(
        "--epochs", type=int, default=None, help="epochs to train (default: the config's schedule_epochs)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's own)")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out what is wrong with the data (default: refuse)"
    )
    parser.add_argument(
        "--official-eval", action="store_true", help="evaluate with pycocotools (default: faster-coco-eval)"
    )
    parser.add_argument(
        "--cache", default="auto", help="how images are kept: decoded, encoded, off, or auto: what fits (default: auto)"
    )
    parser.add_argument(
        "--cache-limit", type=float, help="GB of disk and memory for --cache auto (default: half of what is free)"
    )
    parser.add_argument("--json", action="store_true", help="print the best epoch's numbers as one JSON object")
    options = parser.parse_args(arguments)
    with command():
        check_torch_pair()
        try:
            options.cache_rule = CacheRule(options.cache, options.cache_limit)
        except ValueError as error:
            raise CommandError(str(error)) from None
        told = train(read_config(options.config), options)
    if options.json:
        print(json.dumps(told))
    else:
        print(f"best epoch {told['best_epoch']}: mAP {told['mAP']:.3f}, AP50 {told['AP50']:.3f}; {told['checkpoint']}")


if __name__ == "__main__":
    main()
