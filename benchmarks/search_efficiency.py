"""How much compute a search needs until one of the three best configurations has been trained to the top.

`python -m benchmarks.search_efficiency [--curves FILE] [--seeds 50]`: promotion ASHA + TPE against random search at full
budget and against the stopping ASHA, on recorded curves, with the engine and samplers of a real study in simulated time.
Medians over study seeds with quartiles; busy worker-seconds; ratios of medians.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from search.curves import RecordedCurves, load_curves
from search.replay import quantile, replay

CURVES = Path(__file__).parent / "curves" / "street.json"
METHODS = (("random at full budget", "none", "random"), ("asha_stop + tpe", "asha_stop", "tpe"), ("asha + tpe", "asha", "tpe"),
           ("asha + random", "asha", "random"))  # fmt: skip
OURS, STOPPING, FULL = "asha + tpe", "asha_stop + tpe", "random at full budget"
WORKERS = (1, 8, 64)
BARS = {(1, FULL): 4.0, (8, FULL): 2.5, (1, STOPPING): 1.0, (8, STOPPING): 1.0, (64, STOPPING): 1.1}


def main() -> None:
    """Prints two tables: the compute of every method, and the ratios that are promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", default=str(CURVES), help="a file of search.curves (default: the recorded street)")
    parser.add_argument("--seeds", type=int, default=50, help="studies a method (default: 50)")
    parser.add_argument("--grace", type=int, default=1, help="epochs of the first rung (default: 1)")
    parser.add_argument("--eta", type=int, default=3, help="one in eta trials is promoted (default: 3)")
    options = parser.parse_args()
    curves = load_curves(options.curves)
    assert isinstance(curves, RecordedCurves)
    full = sum(not curve.ended for curve in curves.curves)
    print(
        f"{full} full curves of {curves.epochs} epochs, target mAP {curves.target:.3f} (the third best), {options.seeds} seeds"
    )
    print(
        "| workers | method | seconds to target: median | quartiles | reached | best final mAP |\n|---|---|---|---|---|---|"
    )
    medians: dict[tuple[int, str], float] = {}
    for workers in WORKERS:
        for name, scheduler, sampler in METHODS:
            started = time.perf_counter()
            outcomes = replay(
                curves, scheduler, sampler, workers, options.seeds, len(curves.curves), options.grace, options.eta
            )
            spent = [outcome.to_target for outcome in outcomes]
            low, middle, high = (quantile(spent, q) for q in (25, 50, 75))
            medians[workers, name] = middle
            reached = sum(np.isfinite(spent))
            best = np.nanmedian([outcome.best for outcome in outcomes])
            print(
                f"| {workers} | {name} | {middle:.0f} | {low:.0f} .. {high:.0f} | {reached} of {options.seeds} | {best:.3f} |",
                flush=True,
            )
            print(f"{name}, {workers} workers: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    print("\n| workers | against | ratio of medians | bar | held |\n|---|---|---|---|---|")
    for (workers, other), bar in BARS.items():
        ours, theirs = medians[workers, OURS], medians[workers, other]
        ratio = theirs / ours if other == FULL else ours / theirs
        held = ratio >= bar if other == FULL else ratio <= bar
        words = f">= {bar:g} times less" if other == FULL else f"<= {bar:g}"
        print(f"| {workers} | {other} | {ratio:.2f} | {words} | {'yes' if held else 'no'} |")


if __name__ == "__main__":
    main()
