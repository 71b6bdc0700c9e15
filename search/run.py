"""`python -m search.run --space retinanet`: searches detector configurations and ranks them by COCO mAP."""

from __future__ import annotations

import argparse
import sys

from results.state import PRUNE_ON, RANK_ON
from search import command_line
from search.afterwards import DEFAULT_TOP
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
    search.add_argument(
        "--objective",
        help="several, e.g. mAP,latency_ms or mAP,parameters: their Pareto front; the first prunes and ranks (default: --metric)",
    )
    search.add_argument("--seed", type=int, help="of proposals and training (default: 0)")
    search.add_argument("--prune-on", help=f"what a rung judges by: {', '.join(PRUNE_ON)} score (default: last)")
    search.add_argument("--rank-on", help=f"which epoch the tables show: {', '.join(RANK_ON)} (default: best)")
    search.add_argument(
        "--budget-unit",
        help="epochs or seconds: with seconds, --epochs and --grace are seconds of a trial, converted once into its own "
        "epochs by a probe (default: epochs)",
    )
    command_line.add_training_options(search)
    known = parser.add_argument_group("what is known")
    known.add_argument("--start-from", help="a config to try right after the base, e.g. another study's best.yaml")
    known.add_argument(
        "--reuse", action="append", default=[], metavar="RUN",
        help="a study on the same data: what it has trained is not trained again, nor counted; may be repeated",
    )  # fmt: skip
    known.add_argument(
        "--space-edit", help="with --resume: a space whose fields replace the searched ones from here on"
    )
    after = parser.add_argument_group("after the search")
    after.add_argument("--seeds-final", type=int, help="fresh seeds for each of the best, which then rank (default: 0)")
    after.add_argument("--top", type=int, help=f"how many of the best those are (default: {DEFAULT_TOP})")
    after.add_argument(
        "--audit",
        type=int,
        help="pruned trials, drawn at random, to train to the end: were late bloomers lost? (default: 0)",
    )
    after.add_argument(
        "--audit-base", action="store_true",
        help="train the base alone for as many worker-seconds as all else: what plain training gives (default: no)",
    )  # fmt: skip
    after.add_argument(
        "--polish", action=argparse.BooleanOptionalAction, default=None,
        help="train the winner on a longer schedule, from its start; best.pt is then that detector where it scored more "
        "(default: as the space's budget says, and the plan what it costs)",
    )  # fmt: skip
    after.add_argument(
        "--test",
        action="store_true",
        help="say why, where base and best cannot be scored on the held-out split (default: scored where there is one)",
    )
    command_line.add_machine_options(parser)
    command_line.add_study_options(parser, "--trials, --max-hours, --seeds-final, --polish and --audit-base")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(Options(**vars(make_parser().parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
