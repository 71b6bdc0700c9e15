"""What a decision costs as a study grows: ten thousand simulated trials on synthetic curves, eight workers.

`python -m benchmarks.decisions [--trials 10000] [--samplers random tpe]` prints wall seconds of the whole study, peak
memory, and the milliseconds of a decision among the first, the second and the last thousand trials.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

from search.curves import SyntheticCurves
from search.sampler import SAMPLERS
from search.simulation import simulate_study

WORKERS, WINDOW = 8, 1000


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["random", "tpe"])
    options = parser.parse_args()
    print(
        "| sampler | trials | wall s | peak GiB | ms a decision: first 1 000 | second | last 1 000 |\n|---|---|---|---|---|---|---|"
    )
    for sampler in options.samplers:
        curves = SyntheticCurves()
        started = time.perf_counter()
        outcome = simulate_study(
            curves,
            scheduler="asha",
            sampler=sampler,
            workers=WORKERS,
            seed=0,
            trials=options.trials,
            clock=time.perf_counter,
        )
        wall = time.perf_counter() - started
        timings = outcome.decision_seconds
        windows = (timings[:WINDOW], timings[WINDOW : 2 * WINDOW], timings[-WINDOW:])
        means = " | ".join(f"{1e3 * statistics.fmean(window):.3f}" for window in windows)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {sampler} | {outcome.trials} | {wall:.0f} | {peak:.2f} | {means} |", flush=True)


if __name__ == "__main__":
    main()
