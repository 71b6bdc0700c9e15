"""Recorded learning curves: what many configurations of a space scored and cost, epoch by epoch, in one small file.

`python -m search.curves RUN [RUN ..] --out FILE` takes them from a study that trained everything to the end, for example
`python -m search.run --space retinanet --sampler random --scheduler none --trials 124 --epochs 27`, which can be stopped
and resumed like any study. `python -m search.replay` searches over them in simulated time.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from detector.commands import CommandError, command
from detector.config import ConfigError
from results.records import JournalError
from results.state import Trial, read_study
from search.journal import write_atomically
from spaces.distributions import Choice, Distribution, When, as_tuple, concrete
from spaces.fitting import DatasetFacts
from spaces.loading import load_space
from spaces.space import Budget, ResolvedSpace, resolve

FORMAT = 1
TARGET_PLACES = 3  # a config among so many best final scores is what a search is after
SYNTHETIC_SAMPLE = 400  # configurations drawn to tell which score is hard to reach


@dataclass(frozen=True)
class Curve:
    """One configuration's scores and seconds, epoch by epoch; `ended` says why it has fewer than others."""

    values: dict[str, Any]  # the searched fields
    scores: tuple[float, ...]
    seconds: tuple[float, ...]
    ended: str = ""  # diverged, or "" for a full curve


class Curves(Protocol):
    """Where simulated workers look up what training would have given."""

    space: ResolvedSpace
    epochs: int
    target: float  # the final score that a search is after

    def curve(self, config_hash: str, values: Mapping[str, Any]) -> Curve:
        """The curve of a configuration, by the hash of its config."""

    def nearest_unused(self, values: Mapping[str, Any], used: set[str]) -> dict[str, Any] | None:
        """The values that stand for a proposal; None where all are used."""


@dataclass
class RecordedCurves:
    """A pool of recorded configurations; a proposal stands for the nearest that is left."""

    space: ResolvedSpace
    curves: list[Curve]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_hash = {self.space.config(curve.values).hash(): curve for curve in self.curves}
        self.hashes = list(self.by_hash)
        self.epochs = max(len(curve.scores) for curve in self.curves)
        finals = sorted((c.scores[-1] for c in self.curves if len(c.scores) == self.epochs), reverse=True)
        self.target = finals[min(TARGET_PLACES, len(finals)) - 1]
        short = [curve for curve in self.curves if not curve.ended and len(curve.scores) != self.epochs]
        if short:
            raise ValueError(f"{len(short)} curves are shorter than {self.epochs} epochs and do not say why they ended")
        rows = [self._encode(curve.values) for curve in self.by_hash.values()]
        self._numbers, self._options = (np.array([row[k] for row in rows]) for k in (0, 1))
        if self.space.base.hash() not in self.by_hash:  # of a study that pruned its base: the nearest stands for it
            nearest = self.nearest_unused({}, set())
            assert nearest is not None
            self.space = replace(self.space, base=self.space.config(nearest))
            self.by_hash = {self.space.config(curve.values).hash(): curve for curve in self.curves}
            self.hashes = list(self.by_hash)

    def curve(self, config_hash: str, values: Mapping[str, Any]) -> Curve:
        return self.by_hash[config_hash]

    def nearest_unused(self, values: Mapping[str, Any], used: set[str]) -> dict[str, Any] | None:
        distances = gower(self._encode(values), self._numbers, self._options)
        for place in np.argsort(distances, kind="stable"):
            if self.hashes[place] not in used:
                return self.by_hash[self.hashes[place]].values
        return None

    def _encode(self, values: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """The fields that the config of these values consumes, the base's own where they name none."""
        try:
            active = self.space.config(values).active_dict()
        except ConfigError:  # an impossible proposal still has a nearest possible one
            active = dict(values)
        return encode(self.space.fields, {name: as_tuple(active[name]) for name in self.space.fields if name in active})

    def to_json(self) -> str:
        """The file's text: provenance and space, then a line a curve."""
        head = {"format": FORMAT, "provenance": self.provenance, "space": self.space.to_dict()}
        rows = [
            json.dumps({"values": c.values, "mAP": c.scores, "seconds": c.seconds, **({"ended": c.ended} if c.ended else {})})
            for c in self.curves
        ]  # fmt: skip
        return json.dumps(head, indent=1)[:-2] + ',\n "curves": [\n' + ",\n".join(rows) + "\n]}\n"

    @classmethod
    def from_json(cls, text: str) -> RecordedCurves:
        """The inverse of `to_json`."""
        content = json.loads(text)
        curves = [
            Curve(
                {name: as_tuple(value) for name, value in row["values"].items()},
                tuple(row["mAP"]), tuple(row["seconds"]), row.get("ended", ""),
            )
            for row in content["curves"]
        ]  # fmt: skip
        return cls(ResolvedSpace.from_dict(content["space"]), curves, content["provenance"])

    @classmethod
    def from_study(cls, folder: Path) -> RecordedCurves:
        """The full curves, and the diverged ones, of a study's trials; one that is still training is left out.

        Raises: JournalError where no trial was trained to the end.
        """
        plan, state = read_study(folder)
        space = ResolvedSpace.from_dict(plan["space"])
        if plan.get("budget_unit", "epochs") != "epochs":
            raise JournalError(f"{folder}: curves are by epoch; its budget is in {plan['budget_unit']}")
        top = state.levels[-1]
        trials = [
            t
            for t in state.with_role("search")
            if t.outcome == "diverged" or (t.outcome == "finished" and t.last_epoch == top)
        ]
        curves = [_curve_of(trial) for trial in trials]
        if sum(not curve.ended for curve in curves) < TARGET_PLACES:
            raise JournalError(
                f"{folder} must have at least {TARGET_PLACES} trials that were trained to the end; it has "
                f"{sum(not curve.ended for curve in curves)}. Record with --scheduler none"
            )
        names = ("name", "profile", "metric", "epochs", "seed", "dataset", "versions", "commit", "command")
        told = {**{name: plan[name] for name in names}, "seconds": "CPU seconds of one thread"}
        told["command"] = re.sub(r"/\S+/", "", plan["command"])  # the folders of one machine say nothing elsewhere
        return cls(space, curves, told)


def joined(parts: Sequence[RecordedCurves]) -> RecordedCurves:
    """Curves of several studies of one space and length as one pool; of a configuration that two have, the first's.

    Raises: CommandError where they are of different spaces, lengths or data.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for other in parts[1:]:
        for what, mine, theirs in (
            ("fields", first.space.to_dict()["fields"], other.space.to_dict()["fields"]),
            ("length", first.epochs, other.epochs),
            ("data", first.provenance["dataset"]["fingerprint"], other.provenance["dataset"]["fingerprint"]),
        ):
            if mine != theirs:
                raise CommandError(
                    f"curves go into one file only where their {what} is the same, got {mine} and {theirs}"
                )
    curves = {h: curve for part in reversed(parts) for h, curve in part.by_hash.items()}
    more = [part.provenance for part in parts[1:]]
    return RecordedCurves(first.space, list(curves.values()), {**first.provenance, "joined": more})


def _curve_of(trial: Trial) -> Curve:
    records = [trial.epochs[epoch] for epoch in sorted(trial.epochs)]
    scores = tuple(round(max(0.0, record["metrics"]["mAP"]), 5) for record in records)
    # What a busy machine does not stretch; older records have only the wall clock's.
    seconds = tuple(round(record.get("cpu_seconds") or record["seconds"], 3) for record in records)
    values = {name: as_tuple(value) for name, value in trial.varied.items()}
    return Curve(values, scores, seconds, "diverged" if trial.outcome == "diverged" else "")


def encode(fields: Mapping[str, Distribution | When], values: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(share 0..1 of the range by numeric field, number of the option by choice field); NaN where a field is inactive."""
    numbers, options = np.full(len(fields), np.nan), np.full(len(fields), np.nan)
    for n, (name, entry) in enumerate(fields.items()):
        _, found = concrete(name, entry, values)
        if found is None or name not in values:
            continue
        if isinstance(found, Choice):
            options[n] = hash_of(values[name])
        else:
            numbers[n] = found.share(values[name])
    return numbers, options


def hash_of(value: Any) -> float:
    """A number that tells options of a choice apart, the same in every process."""
    return float(random.Random(repr(as_tuple(value))).getrandbits(40))


def gower(one: tuple[np.ndarray, np.ndarray], numbers: np.ndarray, options: np.ndarray) -> np.ndarray:
    """Gower's distance (1971) of one configuration to many: mean over the fields that either has.

    Numbers differ by their share of the range, options by 0 or 1, and a field that only one has by 1.
    """
    both_numbers = ~np.isnan(one[0]) & ~np.isnan(numbers)
    both_options = ~np.isnan(one[1]) & ~np.isnan(options)
    either = ~(np.isnan(one[0]) & np.isnan(one[1])) | ~(np.isnan(numbers) & np.isnan(options))
    differences = np.where(both_numbers, np.abs(np.nan_to_num(one[0]) - np.nan_to_num(numbers)), 1.0)
    differences = np.where(both_options, np.nan_to_num(one[1]) != np.nan_to_num(options), differences)
    return np.asarray((differences * either).sum(axis=1) / np.maximum(either.sum(axis=1), 1))


@dataclass
class SyntheticCurves:
    """Parametric curves over the default space: any configuration has one, all of it drawn from a seed.

    A score rises as top * (1 - exp(-epoch / pace)), with a little noise; every field has a best place of its own, and
    what is far from it lowers the top or slows the pace.
    """

    seed: int = 0
    epochs: int = 27

    def __post_init__(self) -> None:
        facts = DatasetFacts(((128, 512),), ((20.0, 12.0), (30.0, 14.0), (16.0, 40.0)), (0, 0, 0))
        self.space = resolve(
            load_space("retinanet"), "cpu", facts, {"schedule_epochs": self.epochs, "pretrained": "none"}
        )
        self.space.budget = Budget(self.space.budget.trials, self.epochs, 1, 3)
        rng = random.Random(f"{self.seed}/synthetic")
        self.best = {name: rng.random() for name in self.space.fields}
        self.weight = {name: rng.expovariate(1.0) for name in self.space.fields}
        self.total = sum(self.weight.values())
        draws = (random.Random(f"{self.seed}/target/{n}").random() for n in range(SYNTHETIC_SAMPLE))
        self.target = sorted(self._top(share) for share in map(self._typical, draws))[-SYNTHETIC_SAMPLE // 40]

    def _typical(self, draw: float) -> float:
        """How far a configuration drawn at random is from the best places."""
        rng = random.Random(draw)
        return sum(self.weight[n] * (rng.random() - self.best[n]) ** 2 for n in self.space.fields) / self.total

    def _top(self, distance: float) -> float:
        return max(0.0, 0.6 - 1.2 * distance)

    def curve(self, config_hash: str, values: Mapping[str, Any]) -> Curve:
        numbers, options = encode(self.space.fields, values)
        shares = np.where(np.isnan(numbers), (np.nan_to_num(options, nan=0.0) % 997) / 997, numbers)
        pairs = zip(self.space.fields, shares, strict=True)
        distance = sum(self.weight[name] * float(share - self.best[name]) ** 2 for name, share in pairs) / self.total
        rng = random.Random(f"{self.seed}/{config_hash}")
        top, pace = self._top(distance), rng.uniform(1.5, 6.0)
        scores = tuple(
            max(0.0, top * (1 - 2.718281828 ** (-epoch / pace)) + rng.gauss(0.0, 0.004)) for epoch in range(1, self.epochs + 1)
        )  # fmt: skip
        return Curve(dict(values), scores, (rng.uniform(2.0, 8.0),) * self.epochs)

    def nearest_unused(self, values: Mapping[str, Any], used: set[str]) -> dict[str, Any] | None:
        return dict(values)


def load_curves(source: str) -> Curves:
    """Curves from a file, from a study's folder, or `synthetic`.

    Raises: JournalError, CommandError where there are none.
    """
    if source == "synthetic":
        return SyntheticCurves()
    path = Path(source)
    if path.is_dir():
        return RecordedCurves.from_study(path)
    try:
        return RecordedCurves.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(
            f"--curves {source}: must be a file of curves, a study's folder, or synthetic ({error.strerror})"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"--curves {source}: must be a file that search.curves wrote; reading it said: {error}"
        ) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m search.curves", description="Writes the learning curves of a study as one small file."
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a study that trained its trials to the end, or a file of curves",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write (JSON)")
    options = parser.parse_args(arguments)
    with command(JournalError):
        parts = [load_curves(run) for run in options.runs]
        curves = joined([part for part in parts if isinstance(part, RecordedCurves)])
        write_atomically(options.out, curves.to_json().encode())
    full = sum(not curve.ended for curve in curves.curves)
    print(
        f"{options.out}: {full} full curves of {curves.epochs} epochs, {len(curves.curves) - full} diverged",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
