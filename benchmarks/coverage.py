"""How often the intervals of results/ hold the truth, over simulations whose truth is known.

`python -m benchmarks.coverage` prints two tables (benchmarks/COVERAGE.md has them as measured): differences of steps over
seeds with Holm's family-wise error, and the bootstrap over validation images. Seeded; about 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from results.matching import Matches, match
from results.resampling import mAP_interval
from results.statistics import ALPHA, differences, minimum_detectable, unequal_spread

STEPS = 11  # of the report's chain
CHAIN_SDS = (0.0139, 0.0092, 0.0036, 0.0054, 0.0045, 0.0003, 0.0006, 0.0003, 0.0014, 0.0005, 0.0098)  # README's table
SEED_SD, RESIDUAL_SD = 0.01, 0.01  # of mAP: what the chain of the simulated street showed between seeds
IMAGES, TRUE_IMAGES, CLASSES, SIDE = 300, 20_000, 3, 200.0
REPLICATES = 400


def step_coverage(seeds: int, simulations: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """(coverage of two-way intervals, of paired intervals, family-wise error after Holm with no true difference)."""
    pairs = [(f"s{k}", f"s{k - 1}") for k in range(1, STEPS)]
    truth = np.cumsum(np.concatenate([[0.1], rng.normal(0, 0.01, STEPS - 1)]))
    held = paired = false_alarms = 0
    for _ in range(simulations):
        noise = rng.normal(0, SEED_SD, (1, seeds)) + rng.normal(0, RESIDUAL_SD, (STEPS, seeds))
        found = differences(_table(truth[:, None] + noise), pairs)
        for k, difference in enumerate(found, 1):
            gap = truth[k] - truth[k - 1]
            held += difference.low <= gap <= difference.high
            paired += difference.paired is not None and difference.paired.low <= gap <= difference.paired.high
        false_alarms += any(difference.significant for difference in differences(_table(0.1 + noise), pairs))
    total = simulations * (STEPS - 1)
    return held / total, paired / total, false_alarms / simulations


def step_power(seeds: int, simulations: int, rng: np.random.Generator) -> float:
    """How often one real difference among ten, of just the detectable size, is called real after Holm (80 % is promised)."""
    pairs = [(f"s{k}", f"s{k - 1}") for k in range(1, STEPS)]
    size = minimum_detectable(RESIDUAL_SD * math.sqrt(2 / seeds), (STEPS - 1) * (seeds - 1), STEPS - 1)
    truth = np.where(np.arange(STEPS) >= STEPS // 2, 0.1 + size, 0.1)
    found = 0
    for _ in range(simulations):
        noise = rng.normal(0, SEED_SD, (1, seeds)) + rng.normal(0, RESIDUAL_SD, (STEPS, seeds))
        found += differences(_table(truth[:, None] + noise), pairs)[STEPS // 2 - 1].significant
    return found / simulations


def unequal_coverage(seeds: int, simulations: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Where steps spread as the report's chain did on the simulated street: (coverage of the two-way interval of the noisiest
    pair, of its paired t, family-wise error after Holm, how often Bartlett's test warns of it)."""
    pairs = [(f"s{k}", f"s{k - 1}") for k in range(1, STEPS)]
    held = paired = false_alarms = warned = 0
    for _ in range(simulations):
        scores = _table(0.1 + rng.normal(0, 1, (STEPS, seeds)) * np.array(CHAIN_SDS)[:, None])
        found = differences(scores, pairs)
        noisiest = found[0]
        held += noisiest.low <= 0 <= noisiest.high
        paired += noisiest.paired is not None and noisiest.paired.low <= 0 <= noisiest.paired.high
        false_alarms += any(difference.significant for difference in found)
        warned += unequal_spread(scores) < ALPHA
    return held / simulations, paired / simulations, false_alarms / simulations, warned / simulations


def _table(scores: np.ndarray) -> dict[str, dict[int, float]]:
    return {f"s{k}": {seed: float(score) for seed, score in enumerate(row)} for k, row in enumerate(scores)}


def simulated_images(images: int, rng: np.random.Generator) -> Matches:
    """Boxes of three classes of falling frequency, and a detector that finds fewer of them in images that are hard."""
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        ease = rng.normal(0, 0.8)
        for category, mean in ((1, 4.0), (2, 1.5), (3, 0.4)):
            for _ in range(rng.poisson(mean)):
                bbox = [*rng.uniform(0, SIDE - 40, 2), *rng.uniform(8, 40, 2)]
                truths.append(
                    {"id": len(truths) + 1, "image_id": image, "category_id": category, "bbox": bbox, "area": 1.0, "iscrowd": 0}
                )  # fmt: skip
                if rng.random() < 1 / (1 + math.exp(-0.8 - ease)):
                    moved = np.array(bbox) * [1, 1, *rng.normal(1, 0.08, 2)] + [
                        *rng.normal(0, 0.06, 2) * bbox[2:],
                        0,
                        0,
                    ]
                    score = 1 / (1 + math.exp(-rng.normal(0.8 + ease, 1.0)))
                    found.append({"image_id": image, "category_id": category, "bbox": moved.tolist(), "score": score})
            for _ in range(rng.poisson(1.0)):
                anywhere = [*rng.uniform(0, SIDE - 40, 2), *rng.uniform(8, 40, 2)]
                score = 1 / (1 + math.exp(-rng.normal(-1.0, 1.0)))
                found.append({"image_id": image, "category_id": category, "bbox": anywhere, "score": score})
    categories = [{"id": n + 1, "name": f"class {n + 1}"} for n in range(CLASSES)]
    return match(
        {"images": [{"id": n} for n in range(1, images + 1)], "annotations": truths, "categories": categories}, found
    )


def image_coverage(simulations: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """(coverage, share of intervals that lie above the truth, the truth) of mAP at 300 images drawn from 20 000."""
    everything = simulated_images(TRUE_IMAGES, rng)
    truth = float(everything.mAP()[0])
    held = above = 0
    for number in range(simulations):
        some = np.sort(rng.choice(TRUE_IMAGES, IMAGES, replace=False))
        found = mAP_interval(everything.of_images(some), replicates=REPLICATES, seed=number)
        held += found.low <= truth <= found.high
        above += truth < found.low
    return held / simulations, above / simulations, truth


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--simulations", type=int, default=5000, help="of each row (default: 5000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-only", action="store_true", help="leave the bootstrap over images out")
    options = parser.parse_args()
    print(
        f"| steps | seeds | simulations | two-way, 95 % covers | paired t covers | family-wise error (Holm, 5 %) |\n{'|---' * 6}|"
    )
    for seeds in (3, 5):
        rng = np.random.default_rng([options.seed, seeds])
        covered, paired, error = step_coverage(seeds, options.simulations, rng)
        print(f"| {STEPS} | {seeds} | {options.simulations} | {covered:.2%} | {paired:.2%} | {error:.2%} |", flush=True)
    print(f"\n| steps | seeds | simulations | a difference of the detectable size is found after Holm |\n{'|---' * 4}|")
    for seeds in (3, 5):
        power = step_power(seeds, options.simulations, np.random.default_rng([options.seed, seeds, 1]))
        print(f"| {STEPS} | {seeds} | {options.simulations} | {power:.2%} |", flush=True)
    print(
        "\n| unequal spreads: seeds | simulations | two-way covers the noisiest pair | paired t | family-wise error | Bartlett warns |"
        f"\n{'|---' * 6}|"
    )
    for seeds in (3, 5):
        told = unequal_coverage(seeds, options.simulations, np.random.default_rng([options.seed, seeds, 2]))
        print(f"| {seeds} | {options.simulations} | {' | '.join(f'{share:.2%}' for share in told)} |", flush=True)
    if options.steps_only:
        return
    covered, above, truth = image_coverage(options.simulations, np.random.default_rng([options.seed, IMAGES]))
    print(
        f"\n| images | true mAP ({TRUE_IMAGES} images) | simulations | bootstrap, 95 % covers | interval above the truth |\n{'|---' * 5}|"
    )
    print(f"| {IMAGES} | {truth:.4f} | {options.simulations} | {covered:.2%} | {above:.2%} |")


if __name__ == "__main__":
    main()
