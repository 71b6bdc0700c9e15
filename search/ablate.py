"""`python -m search.ablate --space tdt4265_report`: trains every step of a space's chain on several seeds.

Prints the steps with what each changed, its mAP with spread over seeds, its difference to the step above, its size and
speed, and, where the space quotes a published chain, that one's numbers beside ours.
"""

from __future__ import annotations

import argparse
import sys

from search import command_line
from search.options import DEFAULT_SEEDS, Options


def make_parser() -> argparse.ArgumentParser:
    """All options, each with its default."""
    parser = command_line.make_parser("search.ablate", __doc__, "ablation")
    ablation = parser.add_argument_group("ablation")
    ablation.add_argument("--seeds", type=int, help=f"trainings of each step (default: {DEFAULT_SEEDS})")
    ablation.add_argument("--seed", type=int, help="first of the seeds (default: 0)")
    ablation.add_argument(
        "--imagenet-weights",
        help="file of the trunk's ImageNet weights, for a step that wants them where there is no network "
        "(default: fetched by torchvision)",
    )
    command_line.add_training_options(ablation)
    command_line.add_machine_options(parser)
    command_line.add_study_options(parser, "--seeds and --max-hours")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(Options(kind="ablation", **vars(make_parser().parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
