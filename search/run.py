"""`python -m search.run --space retinanet`: searches detector configurations and ranks them by COCO mAP."""

from __future__ import annotations

import argparse
import contextlib
import sys

from detector.config import ConfigError
from detector.data.dataset import DataError
from results.records import JournalError
from search.options import DEFAULT_RUNS_DIR, Options, StudyError
from search.rungs import SCHEDULERS
from search.sampler import SAMPLERS
from spaces.distributions import SpaceError

EXIT_USER_ERROR = 2
USER_ERRORS = (StudyError, SpaceError, ConfigError, DataError, JournalError)


def make_parser() -> argparse.ArgumentParser:
    """All options, each with its default."""
    parser = argparse.ArgumentParser(
        prog="python -m search.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--space", default="retinanet", help="a space by name, or a .py or .yaml file (default: retinanet)")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        help="folder with train.json, val.json, optional test.json, images/ (default: a simulated LiDAR street)",
    )
    for split in ("train", "val"):
        data.add_argument(
            f"--{split}-annotations", help=f"COCO file of the {split} split, instead of --data (default: none)"
        )
        data.add_argument(f"--{split}-images", help=f"image folder of the {split} split (default: none)")
    data.add_argument(
        "--skip-bad", action="store_true", help="leave out what is wrong with the data and record it (default: refuse)"
    )
    search = parser.add_argument_group("search")
    search.add_argument("--sampler", help=f"who proposes: {', '.join(SAMPLERS)} (default: tpe)")
    search.add_argument("--scheduler", help=f"who prunes: {', '.join(SCHEDULERS)} (default: asha, by promotion)")
    search.add_argument("--trials", type=int, help="configurations to try (default: the space's; grid: all)")
    search.add_argument("--max-hours", type=float, help="stop after this many hours, with results (default: no limit)")
    search.add_argument(
        "--epochs", type=int, help="epochs of the top rung, and of the learning-rate schedule (default: the space's)"
    )
    search.add_argument("--grace", type=int, help="epochs of the first rung (default: the space's)")
    search.add_argument("--eta", type=int, help="one in eta trials is promoted (default: the space's)")
    search.add_argument("--metric", help="mAP, AP50, AP75, AP_small, .. or class:NAME (default: mAP)")
    search.add_argument("--seed", type=int, help="of proposals and training (default: 0)")
    search.add_argument(
        "--set", dest="set_fields", action="append", default=[], metavar="FIELD=VALUE",
        help="fix a DetectorConfig field, as YAML; may be repeated (default: nothing fixed)",
    )  # fmt: skip
    search.add_argument(
        "--test", action="store_true", help="score base and best on the held-out split, once (default: leave it alone)"
    )
    search.add_argument(
        "--official-eval", action="store_true", help="evaluate with pycocotools throughout (default: faster-coco-eval)"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--profile", default="auto", help="cpu, gpu, or auto by the hardware (default: auto)")
    machine.add_argument("--cpus-per-trial", type=float, help="cores of a trial (default: 1; on GPUs the cores' share)")
    machine.add_argument(
        "--gpus-per-trial", type=float, help="GPUs of a trial, may be a fraction (default: 1 where there are any)"
    )
    machine.add_argument("--concurrent", type=int, help="trials at a time (default: as many as fit)")
    output = parser.add_argument_group("study")
    output.add_argument("--name", help="name of the study's folder (default: space and time; with --resume the newest)")
    output.add_argument("--runs-dir", default=DEFAULT_RUNS_DIR, help=f"where studies lie (default: {DEFAULT_RUNS_DIR})")
    output.add_argument(
        "--resume",
        action="store_true",
        help="go on with a study; --trials and --max-hours may extend it (default: a new one)",
    )
    output.add_argument(
        "--dry-run", action="store_true", help="print the plan and the predicted wall time, and stop (default: run)"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status of interfaces: 0 done, 2 user's mistake, 3 nothing succeeded, 4 paused, 130."""
    options = Options(**vars(make_parser().parse_args(arguments)))
    from search.study import EXIT_INTERRUPTED, run_study

    try:
        return run_study(options).exit_status
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print("interrupted; go on with --resume", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
