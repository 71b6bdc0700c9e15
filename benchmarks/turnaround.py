"""Seconds per trial beyond training: a study of short trials, and the same trainer as a plain Ray Tune function trainable.

Both are whole commands, from the start of the process to its end: imports, Ray's start and stop and, on our side, the
plan, the journal, checkpoints, event files and the report. One epoch of the smoke space a trial, one thread each, as many
at a time as there are cores. Beyond training = wall seconds less training seconds over the trials at a time; a second
row leaves out what a study costs once, by the difference of a long and a short one. `python -m benchmarks.turnaround`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import yaml

from benchmarks.processes import Ran, run_measured
from benchmarks.sides import OF_A_COMMAND, Claim, Measured, print_table, scratch_folder
from detector.data.lidar import make_dataset

TRIALS, FEW, ROUNDS = 32, 8, 3
BAR = 1 / 0.3  # at most 0.3 times theirs
SPACE = {"include": "smoke", "fields": {"lr": {"log": [0.001, 0.01]}, "focal_alpha": {"float": [0.25, 0.6]}}}


def at_a_time(trials: int) -> int:
    """One a core."""
    return min(trials, len(os.sched_getaffinity(0)))


def theirs(data: Path, trials: int, scratch: Path) -> tuple[Ran, float]:
    """(the plain script as it ran, its training seconds)."""
    ran = run_measured([sys.executable, "-m", "benchmarks.tune_function", str(data), str(trials), str(scratch / "ray")])
    told = json.loads(ran.printed.splitlines()[-1])
    assert told["trials"] == trials, told
    return ran, told["training_seconds"]


def ours(data: Path, trials: int, scratch: Path) -> tuple[Ran, float]:
    """(our command as it ran, its training seconds)."""
    name = f"study-{time.time_ns()}"
    command = [
        sys.executable, "-m", "search.run", "--space", str(scratch / "space.yaml"), "--data", str(data), "--runs-dir",
        str(scratch / "runs"), "--name", name, "--scheduler", "none", "--sampler", "random", "--epochs", "1", "--trials",
        str(trials), "--profile", "cpu",
    ]  # fmt: skip
    ran = run_measured(command)
    records = [json.loads(line) for line in (scratch / "runs" / name / "journal.jsonl").read_text().splitlines()]
    seconds = [record["seconds"] for record in records if record["event"] == "epoch"]
    slots = next(record["slots"] for record in records if record["event"] == "session_started")
    assert (len(seconds), slots) == (trials, at_a_time(trials))
    return ran, sum(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.turnaround", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    with scratch_folder() as scratch:
        (scratch / "space.yaml").write_text(yaml.safe_dump(SPACE))
        data = scratch / "street"
        make_dataset(data, {"train": 32, "val": 16}, seed=0)
        sides = {"theirs": theirs, "ours": ours}
        beyond: dict[tuple[str, int], list[float]] = {}
        runs: dict[str, list[Ran]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for trials in (FEW, options.trials):
                for name, side in sides.items():
                    ran, training = side(data, trials, scratch)
                    beyond.setdefault((name, trials), []).append(ran.wall - training / at_a_time(trials))
                    runs[name].append(ran)
    whole = {name: [seconds / options.trials for seconds in beyond[name, options.trials]] for name in sides}
    each = {
        name: [
            (long - short) / (options.trials - FEW)
            for long, short in zip(beyond[name, options.trials], beyond[name, FEW], strict=True)
        ]
        for name in sides
    }

    def measured(name: str, found: dict[str, list[float]]) -> Measured:
        peaks = [(ran.peak_gib, ran.trial_gib) for ran in runs[name]]
        return Measured(statistics.median(found[name]), *map(max, zip(*peaks, strict=True)))

    claims = [
        Claim(what, "s/trial", BAR, measured("theirs", found), measured("ours", found))
        for what, found in ((f"{options.trials} trials, whole command", whole), ("each further trial", each))
    ]
    about = f"Trial turnaround: seconds per trial beyond training, {at_a_time(options.trials)} at a time; theirs: Ray Tune function trainable, default settings."
    print_table(claims, about, "ray", memory=OF_A_COMMAND)


if __name__ == "__main__":
    main()
