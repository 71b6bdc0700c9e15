"""Milliseconds a batch of 32 of every configuration of the student report, against the ms that it prints (its own GPU).

From normalised images to detections, as `detector.profile` measures it; full size, 128 x 1024. Only a GPU's figures say
anything beside a GPU's: elsewhere the rows say "not measured". `python -m benchmarks.inference`; runs without ray.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.sides import Claim, Measured, print_table
from detector.profile import profile_config
from spaces.chain import resolve_chain
from spaces.fitting import DatasetFacts
from spaces.loading import load_space
from spaces.space import resolve

BAR, BATCH, CLASSES = 5.0, 32, 8
FACTS = DatasetFacts(
    ((128, 1024),), ((22.0, 12.7),), (0,), True
)  # one box of the report's median size: nothing is read


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "", help="cpu tries the script out"
    )
    options = parser.parse_args()
    space = load_space("tdt4265_report")
    base = resolve(space, "gpu", FACTS).base
    steps, _ = resolve_chain(space.profiles["gpu"].chain, base, {})
    claims = []
    for step in steps:
        if step.reported.ms_per_batch is None:
            continue
        ours = None
        if options.device:
            told = profile_config(base.with_values(step.values), CLASSES, options.device, BATCH)
            ours = Measured(told["ms_per_batch"], told["peak_memory_mib"] / 1024)
        claims.append(Claim(step.name, "ms", BAR, Measured(step.reported.ms_per_batch), ours))
    about = f"Inference of the report's configurations, batch {BATCH}, {options.device or 'a GPU'}; theirs: as the report prints it, on its GPU."
    print_table(
        claims,
        about,
        how="ours the median of 5 batches, theirs one printed number",
        memory="GiB: peak memory of the device",
    )


if __name__ == "__main__":
    main()
