"""A whole study on the simulated street: our default command, and a tidy script of Ray Tune (benchmarks/tidy_tune.py).

The same data (made already, decoded by nobody yet), trials, epochs and space; whole commands, one after the other, for each
of several study seeds. Seconds from the start of the command until its best mAP so far reaches the lower of the two
commands' best; the ratio's median over the seeds counts. `python -m benchmarks.study`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Ran, run_measured
from benchmarks.sides import OF_A_COMMAND, Claim, Measured, print_table, scratch_folder
from detector.data.batches import load_training_data
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource
from detector.data.lidar import make_dataset
from spaces.fitting import DatasetFacts
from spaces.loading import load_space
from spaces.space import resolve

BAR, SEEDS = 3.0, (0, 1, 2)


@dataclass(frozen=True)
class Run:
    """One command's study."""

    curve: list[tuple[float, float]]  # (seconds from the command's start, mAP) of every epoch
    ran: Ran

    @property
    def best(self) -> float:
        return max(score for _, score in self.curve)

    def seconds_to(self, target: float) -> float:
        """Until an epoch scored at least `target`."""
        return min(seconds for seconds, score in self.curve if score >= target)


def ours(data: Path, steps: int, seed: int, scratch: Path) -> Run:
    """`search.run` with the default space."""
    started, name = time.time(), f"seed-{seed}"
    command = [
        sys.executable, "-m", "search.run", "--space", "retinanet", "--profile", "cpu", "--data", str(data), "--runs-dir",
        str(scratch / "runs"), "--name", name, "--seed", str(seed), "--set", f"steps_per_epoch={steps}", *street_budget(),
    ]  # fmt: skip
    ran = run_measured(command, XDG_CACHE_HOME=str(scratch / f"cache-{name}"))  # it decodes for itself
    records = [json.loads(line) for line in (scratch / "runs" / name / "journal.jsonl").read_text().splitlines()]
    curve = [(r["time"] - started, r["metrics"]["mAP"]) for r in records if r["event"] == "epoch"]
    return Run(curve, ran)


def street_budget() -> list[str]:
    """What the default space does on its own street, in options: this one has a folder of its own."""
    budget = load_space("retinanet").profiles["cpu"].street.budget
    assert budget is not None
    numbers = {"trials": budget.trials, "epochs": budget.epochs, "grace": budget.grace, "eta": budget.eta}
    return ["--pretrained", "none", "--no-polish", *(str(w) for k, v in numbers.items() for w in (f"--{k}", v))]


def theirs(data: Path, steps: int, seed: int, trials: int, epochs: int, settings: str, scratch: Path) -> Run:
    """The tidy script."""
    started = time.time()
    words = [str(word) for word in (data, trials, epochs, steps, seed, scratch / "ray", settings)]
    ran = run_measured([sys.executable, "-m", "benchmarks.tidy_tune", *words])
    return Run([(at - started, score) for at, score in json.loads(ran.printed.splitlines()[-1])], ran)


def noted_down(data: Path) -> str:
    """What the writer of the tidy script would have found out beforehand: fitted anchors, the channels' statistics."""
    facts = DatasetFacts(**load_dataset(DataSource.from_folder(data)).facts())
    fitted = resolve(load_space("retinanet"), "cpu", facts, {"pretrained": "none"}).base
    cached = load_training_data(data, fitted.image_size_px).train
    channels = {"mean": cached.channel_mean, "std": cached.channel_std}
    return json.dumps({"fitted": fitted.to_dict(), "statistics": channels})


def claims_of(pairs: Sequence[tuple[Run, Run]]) -> list[Claim]:
    """The rows: the claim by the median of the seeds' ratios, then what lies behind it; pairs are (theirs, ours)."""
    targets = [min(them.best, us.best) for them, us in pairs]
    reached = [
        (them.seconds_to(target), us.seconds_to(target)) for (them, us), target in zip(pairs, targets, strict=True)
    ]
    middle = sorted(range(len(pairs)), key=lambda n: reached[n][0] / reached[n][1])[len(pairs) // 2]

    def sides(values: Sequence[tuple[float, float]], chosen: int | None = None) -> tuple[Measured, Measured]:
        peaks = [
            (max(run.ran.peak_gib for run in side), max(run.ran.trial_gib for run in side))
            for side in zip(*pairs, strict=True)
        ]
        numbers = (
            values[chosen] if chosen is not None else [statistics.median(side) for side in zip(*values, strict=True)]
        )
        return Measured(numbers[0], *peaks[0]), Measured(numbers[1], *peaks[1])

    return [
        Claim(
            f"to the lower of the two best mAPs, {targets[middle]:.3f}, in the middle one of {len(pairs)} seeds", "s",
            BAR, *sides(reached, middle), note="all: " + ", ".join(f"{a:.0f} / {b:.0f}" for a, b in reached),
        ),
        Claim("the whole command", "s", None, *sides([(them.ran.wall, us.ran.wall) for them, us in pairs])),
        Claim(
            "best mAP", "", None, *sides([(them.best, us.best) for them, us in pairs]), more_is_better=True,
            note="all: " + ", ".join(f"{them.best:.3f} / {us.best:.3f}" for them, us in pairs),
        ),
        Claim("epochs trained", "", None, *sides([(len(them.curve), len(us.curve)) for them, us in pairs])),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    profile = load_space("retinanet").profiles["cpu"]
    street, budget = profile.street, profile.street.budget
    assert budget is not None
    with scratch_folder() as scratch:
        data = scratch / "street"
        make_dataset(data, {"train": street.train, "val": street.val}, seed=0, degrees=street.degrees)
        settings, pairs = noted_down(data), []
        for seed in options.seeds:
            us = ours(data, street.steps_per_epoch, seed, scratch)
            them = theirs(data, street.steps_per_epoch, seed, budget.trials, budget.epochs, settings, scratch)
            pairs.append((them, us))
            print(f"seed {seed}: theirs {them.best:.3f} in {them.ran.wall:.0f} s, ours {us.best:.3f} in {us.ran.wall:.0f} s", file=sys.stderr)  # fmt: skip
    about = f"A whole study, {budget.trials} trials of at most {budget.epochs} epochs; theirs: ASHA + OptunaSearch + torchvision's RetinaNet."
    print_table(claims_of(pairs), about, "ray", "optuna", "pycocotools", memory=OF_A_COMMAND)


if __name__ == "__main__":
    main()
