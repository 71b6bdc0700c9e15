"""`python -m search.run --space retinanet`: searches detector configurations and ranks them by COCO mAP."""

from __future__ import annotations

import argparse
import sys

from search import command_line
from search.options import Options
from search.rungs import SCHEDULERS
from search.sampler import SAMPLERS


def make_parser() -> argparse.ArgumentParser:
    """All options, each with its default."""
    parser = command_line.make_parser("search.run", __doc__, "search")
    search = parser.add_argument_group("search")
    search.add_argument(
        "--from", dest="from_step", help="a step of the space's chain to search around (default: its base)"
    )
    search.add_argument("--sampler", help=f"who proposes: {', '.join(SAMPLERS)} (default: tpe)")
    search.add_argument("--scheduler", help=f"who prunes: {', '.join(SCHEDULERS)} (default: asha, by promotion)")
    search.add_argument("--trials", type=int, help="configurations to try (default: the space's; grid: all)")
    search.add_argument("--grace", type=int, help="epochs of the first rung (default: the space's)")
    search.add_argument("--eta", type=int, help="one in eta trials is promoted (default: the space's)")
    search.add_argument("--metric", help="mAP, AP50, AP75, AP_small, .. or class:NAME (default: mAP)")
    search.add_argument("--seed", type=int, help="of proposals and training (default: 0)")
    command_line.add_training_options(search)
    search.add_argument(
        "--test", action="store_true", help="score base and best on the held-out split, once (default: leave it alone)"
    )
    command_line.add_machine_options(parser)
    command_line.add_study_options(parser, "--trials and --max-hours")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(Options(**vars(make_parser().parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
