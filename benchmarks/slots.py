"""Two trials side by side on one thread each, against one trial on two threads: epochs per minute of the default base.

`python -m benchmarks.slots`: both sides in turn, three times, medians and their ratio.
"""

from __future__ import annotations

import platform
import statistics

from search.forecast import probe_epoch_seconds
from search.options import Options
from search.plan import make_plan

REPEATS = 3


def main() -> None:
    study = make_plan(Options(name="benchmark", profile="cpu"), lambda line: None)
    config, source = study.space.base.to_dict(), study.plan["source"]
    sides: dict[str, list[float]] = {"2 trials x 1 thread": [], "1 trial x 2 threads": []}
    for _ in range(REPEATS):
        pair = probe_epoch_seconds([config, config], source, False, slots=2, threads=1)
        sides["2 trials x 1 thread"].append(2 * 60 / statistics.fmean(pair))
        alone = probe_epoch_seconds([config], source, False, slots=1, threads=2)
        sides["1 trial x 2 threads"].append(60 / alone[0])
    print(f"machine: {platform.processor() or platform.machine()}, torch {study.plan['versions']['torch']}")
    medians = {name: statistics.median(values) for name, values in sides.items()}
    for name, values in sides.items():
        print(f"{name}: {medians[name]:.2f} epochs/min (of {', '.join(f'{v:.2f}' for v in values)})")
    print(f"ratio: {medians['2 trials x 1 thread'] / medians['1 trial x 2 threads']:.2f}")


if __name__ == "__main__":
    main()
