"""What search.run and search.ablate share at the edge: option groups, and how a user's mistake ends."""

from __future__ import annotations

import argparse
import contextlib
import sys

from detector.config import ConfigError
from detector.data.dataset import DataError
from results.records import JournalError
from search.options import DEFAULT_MAX_FAILURES, DEFAULT_RUNS_DIR, DEFAULT_SPACES, Options, StudyError
from search.storage.store import StorageError
from spaces.distributions import SpaceError

EXIT_USER_ERROR = 2
USER_ERRORS = (StudyError, SpaceError, ConfigError, DataError, JournalError, StorageError)


def make_parser(module: str, about: str | None, kind: str) -> argparse.ArgumentParser:
    """A parser with --space and the data options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = DEFAULT_SPACES[kind]
    parser.add_argument("--space", help=f"a space by name, or a .py or .yaml file (default: {default})")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        help="folder with train.json, val.json, optional test.json, images/, or s3://bucket/prefix of one, which every machine "
        "fetches once (default: a simulated LiDAR street)",
    )
    for split in ("train", "val"):
        data.add_argument(
            f"--{split}-annotations", help=f"COCO file of the {split} split, instead of --data (default: none)"
        )
        data.add_argument(f"--{split}-images", help=f"image folder of the {split} split (default: none)")
    data.add_argument(
        "--extended-annotations",
        help="COCO file of more training images, in the folder of the training images, for steps and configs that ask "
        "for them (default: extended.json of --data, where there is one)",
    )
    data.add_argument(
        "--skip-bad", action="store_true", help="leave out what is wrong with the data and record it (default: refuse)"
    )
    return parser


def add_training_options(group: argparse._ArgumentGroup) -> None:
    """What is trained, scored and fixed, whoever proposes it."""
    group.add_argument("--max-hours", type=float, help="stop after this many hours, with results (default: no limit)")
    group.add_argument(
        "--epochs", type=int, help="epochs of a full training, and of the learning-rate schedule (default: the space's)"
    )
    group.add_argument(
        "--set", dest="set_fields", action="append", default=[], metavar="FIELD=VALUE",
        help="fix a DetectorConfig field, as YAML; may be repeated (default: nothing fixed)",
    )  # fmt: skip
    group.add_argument(
        "--pretrained", metavar="none|imagenet|coco|FILE",
        help="where detectors start: random weights, the trunk's ImageNet weights, torchvision's COCO detector, or a file; short "
        "for --set pretrained=.. (default: the space's)",
    )  # fmt: skip
    group.add_argument(
        "--max-failures", type=int, help=f"times a trial is run again after an error (default: {DEFAULT_MAX_FAILURES})"
    )
    group.add_argument(
        "--trainer",
        help="package.module:Class with our Trainer's methods, to search around your own detector (default: ours)",
    )
    group.add_argument(
        "--official-eval", action="store_true", help="evaluate with pycocotools throughout (default: faster-coco-eval)"
    )


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Where trials run, and how many at a time."""
    machine = parser.add_argument_group("machine")
    machine.add_argument("--profile", default="auto", help="cpu, gpu, or auto by the hardware (default: auto)")
    machine.add_argument("--cpus-per-trial", type=float, help="cores of a trial (default: 1; on GPUs the cores' share)")
    machine.add_argument(
        "--gpus-per-trial",
        help="GPUs of a trial, may be a fraction; auto packs as many as the largest config's probed memory allows "
        "(default: 1 where there are any)",
    )
    machine.add_argument(
        "--memory-per-trial", type=float,
        help="GB of main memory that a trial may take before it counts as out of memory (Linux; default: until the kernel ends it)",
    )  # fmt: skip
    machine.add_argument(
        "--accelerator-type",
        help="on a cluster: train on nodes with this GPU alone, by Ray's name, e.g. L4 or H100 (default: on any)",
    )
    machine.add_argument(
        "--cache",
        help="how images are kept for all trials of a machine: decoded (a memory map of pixels), encoded (one of the files' bytes, "
        "decoded as they are needed), off (the files themselves), or auto: the first of these that fits (default: auto)",
    )
    machine.add_argument(
        "--cache-limit", type=float,
        help="GB of disk and of memory that they may take with --cache auto (default: half of what is free)",
    )  # fmt: skip
    machine.add_argument("--concurrent", type=int, help="trials at a time (default: as many as fit)")


def add_study_options(parser: argparse.ArgumentParser, extends: str) -> None:
    """Where the study lies, and whether it is a new one; `extends` are the options that --resume may change."""
    output = parser.add_argument_group("study")
    output.add_argument("--name", help="name of the study's folder (default: space and time; with --resume the newest)")
    output.add_argument("--runs-dir", default=DEFAULT_RUNS_DIR, help=f"where studies lie (default: {DEFAULT_RUNS_DIR})")
    output.add_argument(
        "--storage",
        help="where studies live: a folder, on a cluster one that every node mounts, or s3://bucket/prefix, of which --runs-dir "
        "then holds a copy (default: --runs-dir)",
    )
    output.add_argument(
        "--keep",
        help="checkpoints of trials that are not training: all, promotable (those that may still go on), top:N or best; "
        "one that goes on without its own trains from the start (default: all)",
    )
    output.add_argument(
        "--resume", action="store_true", help=f"go on with a study; {extends} may extend it (default: a new one)"
    )
    output.add_argument(
        "--dry-run", action="store_true", help="print the plan and the predicted wall time, and stop (default: run)"
    )


def run(options: Options) -> int:
    """The study; returns the exit status of interfaces: 0 done, 2 user's mistake, 3 nothing succeeded, 4 paused, 130."""
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
