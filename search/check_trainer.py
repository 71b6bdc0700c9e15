"""`python -m search.check_trainer --trainer package.module:Class`: whether a trainer of one's own can be searched around.

The same config and seed must give the same training loss, and another one where one searched field differs (a tuner whose
hyperparameters never reach the trainer ranks chance); a trainer that goes on from its state must do as if it had never
stopped. Prints a row a check; exit 2 where one fails.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.commands import CommandError, check_torch_pair, command
from detector.config import ConfigError, DetectorConfig
from detector.data.dataset import DataSource
from search.options import DEFAULT_SPACES, StudyError, parse_set_fields
from search.trainers import trainer_class
from spaces.distributions import Distribution, SpaceError, When
from spaces.fitting import DatasetFacts
from spaces.loading import load_space
from spaces.space import ResolvedSpace, resolve

CHECK_IMAGES = {"train": 16, "val": 4}  # of the street, where no data is named
CHECK_STEPS = 3  # optimizer steps of an epoch: enough that a rate, a momentum and an augmentation show
TRIES = 8  # values of a field that are tried before it counts as not reaching the trainer


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    passed: bool
    told: str


def checks(make: Callable[[DetectorConfig, int], Any], space: ResolvedSpace) -> Iterator[Check]:
    """Every check in turn; `make` builds the trainer of a config and a seed."""
    base = space.base
    first = make(base, 0)
    results = [first.step(), first.step()]
    scores = [result.metrics.get("mAP", math.nan) for result in results]
    plain = all(math.isfinite(score) for score in scores) and [r.epoch for r in results] == [1, 2]
    plain = plain and all("AP50" in result.metrics for result in results)
    yield Check("an epoch has a number, mAP and AP50", plain, f"epochs {[r.epoch for r in results]}, mAP {scores}")
    again = make(base, 0).step()
    same = again.train_loss == results[0].train_loss
    yield Check(
        "the same config and seed train alike", same, f"loss {results[0].train_loss:.6f} and {again.train_loss:.6f}"
    )
    other = make(base, 1).step()
    yield Check(
        "another seed trains otherwise", other.train_loss != results[0].train_loss, f"loss {other.train_loss:.6f}"
    )
    stopped = make(base, 0)
    stopped.step()
    resumed = make(base, 0)
    resumed.load_state_dict(stopped.state_dict())
    went_on = resumed.step()
    yield Check(
        "going on from its state is as never stopped", went_on.train_loss == results[1].train_loss,
        f"loss of epoch 2: {results[1].train_loss:.6f} and {went_on.train_loss:.6f}",
    )  # fmt: skip
    for name, entry in space.fields.items():
        yield _field_check(make, space, name, entry, [result.train_loss for result in results])


def _field_check(
    make: Callable[[DetectorConfig, int], Any], space: ResolvedSpace, name: str, entry: Distribution | When, losses: list[float]
) -> Check:  # fmt: skip
    """Whether a change of one field changes the loss of one of the first two epochs."""
    values = list(other_values(space, name, entry))
    for value in values:
        trainer = make(space.base.with_values({name: value}), 0)
        found = [trainer.step().train_loss, trainer.step().train_loss]
        if found != losses:
            return Check(name, True, f"{value!r}: loss {found[0]:.6f}")
    told = (
        f"{values[0]!r} trains exactly as the base's"
        if values
        else "NOT CHECKED: no other value can be tried on the base alone"
    )
    return Check(name, not values, told)


def other_values(space: ResolvedSpace, name: str, entry: Distribution | When) -> Iterator[Any]:
    """Values of a field that change the base's config and can be, the ends first."""
    found = entry.cases.get(getattr(space.base, entry.field)) if isinstance(entry, When) else entry
    if found is None:
        return
    rng, tried = random.Random(name), 0
    for share in (1.0, 0.0, *(rng.random() for _ in range(TRIES))):
        value = found.at(share)
        try:
            config = space.base.with_values({name: value})
        except ConfigError:
            continue
        if config.hash() != space.base.hash() and tried < 2:
            tried += 1
            yield value


def prepared(options: argparse.Namespace) -> tuple[ResolvedSpace, Any]:
    """(the space on the data, few steps an epoch; the data)."""
    from detector.data.batches import load_training_data
    from detector.data.coco import load_dataset
    from detector.data.lidar import make_dataset_once
    from detector.data.places import cache_home

    if options.data:
        source = DataSource.from_folder(Path(options.data))
    else:
        out = cache_home() / "made" / "check-trainer"
        source = DataSource.from_folder(make_dataset_once(out, CHECK_IMAGES, 0, 180))
    dataset = load_dataset(source, False, "train")
    fixed = {"steps_per_epoch": CHECK_STEPS, "batch_size": 2, **parse_set_fields(options.set_fields)}
    space = resolve(load_space(options.space), "cpu", DatasetFacts(**dataset.facts()), fixed)
    return space, load_training_data(source, space.base.image_size_px)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m search.check_trainer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainer", default="", help="package.module:Class (default: ours)")
    parser.add_argument(
        "--space", default=DEFAULT_SPACES["search"], help="whose fields must reach it (default: retinanet)"
    )
    parser.add_argument(
        "--data", help="folder with train.json, val.json and images/ (default: a few images of the street)"
    )
    parser.add_argument(
        "--set", dest="set_fields", action="append", default=[], metavar="FIELD=VALUE", help="fix a field"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array (default: a line a check)")
    options = parser.parse_args(arguments)
    with command(StudyError, SpaceError):
        check_torch_pair()
        import torch

        torch.set_num_threads(1)  # equal numbers need equal threads, and a few images no more
        kind = trainer_class(options.trainer)
        space, data = prepared(options)
        found: list[Check] = []
        for check in checks(lambda config, seed: kind(config, data, seed, "cpu"), space):
            found.append(check)
            if not options.json:
                print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.told}")
        if options.json:
            print(json.dumps([vars(check) for check in found]))
        failed = [check.name for check in found if not check.passed]
        if failed:
            raise CommandError(
                f"--trainer {options.trainer or 'ours'}: {len(failed)} of {len(found)} checks failed: {', '.join(failed)}. A field "
                "that does not reach the trainer must not be searched (--space a file of yours), or must be read by it"
            )


if __name__ == "__main__":
    main()
