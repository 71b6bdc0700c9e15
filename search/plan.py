"""From what the user asked to the frozen plan (study.json) of a new study; search/resume.py takes up an old one."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.config import DetectorConfig
from detector.data.dataset import DetectionDataset, coco_ground_truth
from detector.evaluate import METRIC_NAMES
from results.pareto import MINIMISED
from results.records import GROUND_TRUTH_NAME, PLAN_NAME
from search.ablation_plan import settle_chain
from search.afterwards import DEFAULT_FINALISTS, DEFAULT_TOP
from search.dataset import describe_dataset, images_to_show
from search.given import Given, read_given
from search.grid import grid_size
from search.journal import write_atomically
from search.kept_images import keep_images
from search.options import AUTO, DEFAULT_MAX_FAILURES, Options, StudyError, changes_of_file
from search.path import settle_path
from search.provenance import command_line, commit, versions
from search.resources import Resources, plan_resources
from search.rungs import rung_levels
from search.storage.copies import COPY_OF
from search.storage.store import Store, below, open_store
from spaces.chain import ResolvedStep
from spaces.distributions import as_tuple
from spaces.space import ResolvedSpace

MAX_GRID = 10_000
DEFAULT_POLISH = 3.0  # times a full training, where --polish asks for one that the space does not name


@dataclass
class Study:
    """A planned study: the plan as study.json holds it, and what was built from it."""

    folder: Path
    plan: dict[str, Any]
    space: ResolvedSpace
    resources: Resources
    resumed: bool
    levels: list[int]  # the rungs as they are now; the plan's, unless the study was extended
    check: Callable[[DetectorConfig], None]  # raises ConfigError for a config that this dataset cannot train
    checkpoint_bytes: int = 0  # of the largest configuration; 0 where it is not known
    ground_truth: dict[str, Any] | None = None  # of the validation split, as COCO; None where the study has it already
    extend_to: int | None = None  # epochs of a rung that this session adds on top
    link: str = ""  # the object store that it lives in; `folder` is then this machine's copy
    images_words: str = ""  # how images are kept on this machine, and what that costs
    start: str = ""  # what the base loads of its weights, in words

    @functools.cached_property
    def store(self) -> Store:
        """Where it lives."""
        return open_store(self.link or self.folder)

    @property
    def steps(self) -> list[ResolvedStep]:
        """The steps of an ablation; none for a search."""
        return [ResolvedStep.from_dict(step) for step in self.plan.get("steps", [])]


def make_plan(options: Options, say: Any) -> Study:
    """A new study's plan, its data made or found, checked and decoded. Nothing is written to the study folder yet.

    Raises: StudyError, SpaceError, ConfigError, DataError: all a user's to mend.
    """
    if options.path or options.leave_one_out:
        options, given, settled = settle_path(options)
    else:
        given = read_given(options, say)
        settled = settle_chain(options, given) if options.kind == "ablation" else _settle_search(options, given)
    plan: dict[str, Any] = {
        "format": 2,
        "kind": options.kind,
        "name": options.name or f"{Path(options.space_name).stem}-{time.strftime('%Y%m%d-%H%M%S')}",
        "space": given.space.to_dict(),
        "space_option": options.space_name,
        "profile": given.profile_name,
        "from_step": options.from_step,
        "imagenet_weights": options.imagenet_weights,
        **settled,
        "max_hours": options.max_hours,
        "max_failures": DEFAULT_MAX_FAILURES if options.max_failures is None else options.max_failures,
        "keep": options.keep or "all",
        "memory_per_trial": options.memory_per_trial,
        "cache": options.cache or AUTO,
        "cache_limit": options.cache_limit,
        "trainer": options.trainer or "",
        "official_eval": options.official_eval,
        "skip_bad": options.skip_bad,
        "versions": versions(),
        "commit": commit(),
        "command": command_line(),
    }
    study = Study(
        Path(options.runs_dir) / plan["name"], plan, given.space, resources_of(options, plan["trials"], given.profile_name == "gpu"),
        resumed=False, levels=plan["levels"], check=given.check, link=below(options.storage, plan["name"]) if options.storage else "",
    )  # fmt: skip
    _check_place(study, options)
    images = keep_images(plan, given.source.to_dict(), given.dataset, given.space, say)
    plan |= {
        "source": images.source,
        "dataset": describe_dataset(given.dataset, images.caches),
        "shown_images": images_to_show(given.dataset.val),
        "dropped": given.dataset.dropped,
    }
    if "study" in plan and not plan["dataset"]["fingerprint"].startswith(plan["study_fingerprint"]):
        say(f"    data  is not what {plan['study']} was run on: its order of steps may not hold here")
    study.ground_truth, study.images_words = coco_ground_truth(given.dataset.val), images.words
    return study


def _check_place(study: Study, options: Options) -> None:
    """Raises: StudyError where a new study cannot begin."""
    folder, name = study.folder, study.plan["name"]
    if not all(part.is_dir() for part in (folder, *folder.parents) if part.exists()):
        raise StudyError(f"--runs-dir {options.runs_dir}: must be a folder, or one that can be made")
    taken = str(folder) if (folder / PLAN_NAME).exists() else ""
    if study.link and study.store.get(PLAN_NAME) is not None:
        taken = study.link
    if taken:
        raise StudyError(
            f"{taken} holds a study already; continue it with --resume --name {name}, or choose another --name"
        )


def _settle_search(options: Options, given: Given) -> dict[str, Any]:
    """Who proposes, who prunes, on which rungs, how often and by what."""
    budget = given.space.budget
    epochs = options.epochs or budget.epochs
    grace = options.grace if options.grace is not None else min(budget.grace, epochs)
    eta = options.eta if options.eta is not None else budget.eta
    scheduler, sampler = options.scheduler or "asha", options.sampler or "tpe"
    levels = _levels(scheduler, grace, epochs, eta)
    trials = options.trials or budget.trials
    if sampler == "grid":
        all_of_it = grid_trials(given.space)
        trials = options.trials or all_of_it
    if options.trainer and (options.budget_unit == "seconds" or options.gpus_per_trial == AUTO):
        raise StudyError(
            "--trainer: seconds and GPU memory are probed on our own detector; leave --budget-unit and auto out"
        )
    objectives = _objectives(options, given.dataset)
    metric = objectives[0]
    if options.space_edit:
        raise StudyError(
            "--space-edit changes a study that there is; give it with --resume, or as --space of a new one"
        )
    return {
        "metric": metric, "objectives": objectives, "seed": options.seed or 0, "sampler": sampler, "scheduler": scheduler, "levels": levels,
        "eta": eta, "grace": grace, "epochs": epochs, "trials": trials,
        "prune_on": options.prune_on or "last", "rank_on": options.rank_on or "best",
        "seeds_final": options.seeds_final or 0, "top": options.top or DEFAULT_TOP, "audit": options.audit or 0,
        "finalists": DEFAULT_FINALISTS, "polish": polish_epochs(options.polish, budget.polish, epochs, options.budget_unit, options.trainer), "audit_base": options.audit_base,
        "budget_unit": options.budget_unit or "epochs",
        "warm_starts": [warm_start(options.start_from, given)] if options.start_from else [],
        "reuse": [str(Path(folder).resolve()) for folder in options.reuse],
    }  # fmt: skip


def polish_epochs(asked: bool | None, factor: float, epochs: int, budget_unit: str | None, trainer: str | None) -> int:
    """Epochs of the winner's longer training, `factor` times a full one; 0 for none.

    None where it is switched off or neither `asked` for nor the space's way, around a trainer of one's own, and where the
    budget is in seconds.
    """
    if asked is False or trainer or budget_unit == "seconds" or (asked is None and factor <= 1):
        return 0
    return round(max(factor, DEFAULT_POLISH if asked else 1.0) * epochs)


def warm_start(file: str, given: Given) -> dict[str, Any]:
    """What a config changes on the base, to be tried right after it; its canvas and training split are the study's.

    Raises: ConfigError for a file that holds no config, or one that cannot be trained on this data.
    """
    values = changes_of_file(given.space.base, Path(file), "--start-from")
    given.check(given.space.config(values))
    return {name: as_tuple(value) for name, value in values.items()}


def grid_trials(space: ResolvedSpace) -> int:
    """The base and every combination of the grid.

    Raises: StudyError where nobody could want to wait for that.
    """
    size = grid_size(space.fields)
    if size > MAX_GRID:
        raise StudyError(
            f"--sampler grid has {size:,} combinations of {len(space.fields)} fields, at most {MAX_GRID:,} can be; fix "
            "fields with --set field=value, or search a smaller --space"
        )
    return size + 1


def _objectives(options: Options, dataset: DetectionDataset) -> list[str]:
    """The study's objectives; the first is the metric that prunes and ranks.

    Raises: StudyError for one that is none, or for a first one that says nothing of quality.
    """
    names = options.objective.split(",") if options.objective else [options.metric or "mAP"]
    if options.objective and options.metric not in (None, names[0]):
        raise StudyError(f"--metric {options.metric}: with --objective the first of them is the metric, {names[0]}")
    if len(set(names)) < len(names):
        raise StudyError(f"--objective must name each objective once, got {options.objective}")
    if names[0] in MINIMISED:
        raise StudyError(f"--objective must begin with a score, which prunes and ranks; got {names[0]} first")
    for name in names:
        if name not in MINIMISED:
            _check_metric(name, dataset)
    if len(names) > 1 and options.trainer:
        raise StudyError(
            "--objective: latency and parameters are those of our own detector; leave --trainer or them out"
        )
    return names


def _check_metric(metric: str, dataset: DetectionDataset) -> None:
    if metric.startswith("class:"):
        if metric.removeprefix("class:") not in dataset.class_names:
            raise StudyError(f"--metric {metric}: the dataset's classes are {', '.join(dataset.class_names)}")
        index = dataset.class_names.index(metric.removeprefix("class:"))
        if not any(
            (labels[~crowd] == index).any() for labels, crowd in zip(dataset.val.labels, dataset.val.crowd, strict=True)
        ):
            raise StudyError(f"--metric {metric}: the validation split has no box of that class; nothing could score")
    elif metric not in METRIC_NAMES:
        raise StudyError(f"--metric must be one of {', '.join(METRIC_NAMES)} or class:NAME, got {metric!r}")


def _levels(scheduler: str, grace: int, epochs: int, eta: int) -> list[int]:
    try:
        levels = rung_levels(grace, epochs, eta)
    except ValueError as error:
        raise StudyError(str(error)) from None
    return levels[-1:] if scheduler == "none" else levels


def resources_of(options: Options, trials: int, use_gpu: bool) -> Resources:
    """The machine's shares as asked, in words where they do not fit."""
    gpus = None if isinstance(options.gpus_per_trial, str) else options.gpus_per_trial
    try:
        return plan_resources(
            options.cpus_per_trial, gpus, options.concurrent, trials, use_gpu, options.accelerator_type
        )
    except ValueError as error:
        raise StudyError(str(error)) from None


def write_plan(study: Study) -> None:
    """study.json, whole or not at all, after what detections are compared with; where the study lives, and in its copy."""
    files = {PLAN_NAME: json.dumps(study.plan, indent=1)}
    if study.ground_truth is not None:
        files = {GROUND_TRUTH_NAME: json.dumps(study.ground_truth), **files}
    for name, content in files.items():
        study.store.put(name, f"{content}\n".encode())
        if study.link:
            write_atomically(study.folder / name, f"{content}\n".encode())
    if study.link:
        write_atomically(study.folder / COPY_OF, f"{study.link}\n".encode())
