"""`python -m search.ablate --space tdt4265_report`: trains every step of a space's chain on several seeds.

`python -m search.ablate --path base best`: the changes from the base of the newest search to its best, step by step.
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
    path = parser.add_argument_group("which change earned it")
    path.add_argument(
        "--path", nargs=2, metavar=("FROM", "TO"),
        help="instead of a chain: the changes from one configuration of a study to another, in the order that its surrogate expects "
        "to gain most, e.g. --path base best; each is base, best, a trial or config of the study, or a config file",
    )  # fmt: skip
    path.add_argument(
        "--leave-one-out", action="store_true",
        help="instead of adding them up: TO without each of its changes (default: --path base best)",
    )  # fmt: skip
    path.add_argument("--study", metavar="RUN", help="the search that found them (default: the newest of --runs-dir)")
    command_line.add_machine_options(parser)
    command_line.add_study_options(parser, "--seeds and --max-hours")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(Options(kind="ablation", **vars(make_parser().parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
