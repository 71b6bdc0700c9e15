"""`python -m search.replay --curves F --json`: how much compute a search needs, from recorded curves, in simulated time.

Runs the engine, scheduler and sampler of a real study; a proposal stands for the nearest recorded configuration that is
left (Gower distance), and the sampler is told that one. Counted are the busy seconds of all workers together until a
configuration among the three best final scores has been trained to the top rung; a study that never gets there counts
as infinite (null). A final score is that of the last epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from detector.commands import CommandError, command
from results.records import JournalError
from search.curves import Curves, RecordedCurves, load_curves
from search.rungs import SCHEDULERS, rung_levels
from search.sampler import SAMPLERS
from search.simulation import Outcome, simulate_study
from spaces.distributions import SpaceError

SYNTHETIC_TRIALS = 200


def replay(
    curves: Curves, scheduler: str, sampler: str, workers: int, seeds: int, trials: int, grace: int, eta: int
) -> list[Outcome]:
    """One simulated study per seed 0 .. seeds - 1."""
    return [
        simulate_study(
            curves,
            scheduler=scheduler,
            sampler=sampler,
            workers=workers,
            seed=seed,
            trials=trials,
            grace=grace,
            eta=eta,
        )
        for seed in range(seeds)
    ]


def summarise(outcomes: Sequence[Outcome], curves: Curves) -> dict[str, Any]:
    """Quartiles of the compute to the target, the median best final score, and the target itself."""
    spent = [outcome.to_target for outcome in outcomes]
    best = [outcome.best for outcome in outcomes if not math.isnan(outcome.best)]
    quartiles = {"median": 50, "q25": 25, "q75": 75}
    return {
        "compute_to_target": {name: _finite(quantile(spent, q)) for name, q in quartiles.items()},
        "best": _finite(float(np.median(best))) if best else None,
        "target": curves.target,
        "unit": "seconds",
        "seeds": len(outcomes),
        "reached": sum(math.isfinite(value) for value in spent),
        "trials": float(np.median([outcome.trials for outcome in outcomes])),
        "epochs": float(np.median([outcome.epochs for outcome in outcomes])),
        "busy_seconds": float(np.median([outcome.busy_seconds for outcome in outcomes])),
    }


def quantile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (the lower of two neighbours' mean is not defined with infinities: then the upper one)."""
    ordered = sorted(values)
    position = q / 100 * (len(ordered) - 1)
    low, high = ordered[math.floor(position)], ordered[math.ceil(position)]
    return high if low == high or math.isinf(high) else low + (high - low) * (position - math.floor(position))


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def make_parser() -> argparse.ArgumentParser:
    """All options, each with its default."""
    parser = argparse.ArgumentParser(
        prog="python -m search.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curves", required=True, help="a file of search.curves, a study's folder, or synthetic")
    parser.add_argument("--scheduler", default="asha", choices=SCHEDULERS, help="who prunes (default: asha)")
    parser.add_argument("--sampler", default="tpe", choices=SAMPLERS, help="who proposes (default: tpe)")
    parser.add_argument("--workers", type=int, default=1, help="simulated workers (default: 1)")
    parser.add_argument("--seeds", type=int, default=50, help="studies, one per seed from 0 (default: 50)")
    parser.add_argument("--epochs", type=int, help="epochs of a full training (default: the curves')")
    parser.add_argument("--grace", type=int, default=1, help="epochs of the first rung (default: 1)")
    parser.add_argument("--eta", type=int, default=3, help="one in eta trials is promoted (default: 3)")
    parser.add_argument(
        "--trials", type=int, help=f"configurations to try (default: all recorded; synthetic: {SYNTHETIC_TRIALS})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object (default: a few lines)")
    return parser


def check(options: argparse.Namespace, curves: Curves) -> None:
    """Raises: CommandError for what no study over these curves can be."""
    for name in ("workers", "seeds", "trials"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise CommandError(f"--{name} must be at least 1, got {value}")
    if options.epochs not in (None, curves.epochs):
        raise CommandError(f"--epochs must be that of the curves, {curves.epochs}, got {options.epochs}")
    try:
        rung_levels(options.grace, curves.epochs, options.eta)
    except ValueError as error:
        raise CommandError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `--help`."""
    options = make_parser().parse_args(arguments)
    with command(JournalError, SpaceError):
        curves = load_curves(options.curves)
        check(options, curves)
        pool = len(curves.curves) if isinstance(curves, RecordedCurves) else SYNTHETIC_TRIALS
        outcomes = replay(
            curves, options.scheduler, options.sampler, options.workers, options.seeds, options.trials or pool,
            options.grace, options.eta,
        )  # fmt: skip
    told = summarise(outcomes, curves)
    if options.json:
        print(json.dumps(told))
        return
    spent = told["compute_to_target"]
    print(f"{options.scheduler} + {options.sampler}, {options.workers} workers, {options.seeds} seeds", file=sys.stderr)
    print(
        f"compute to target {told['target']:.3f}: median {spent['median']} s ({spent['q25']} .. {spent['q75']}), reached {told['reached']} of {told['seeds']}"
    )


if __name__ == "__main__":
    main()
