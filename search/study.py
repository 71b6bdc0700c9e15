"""run_study: one search from plan to ranking, resumable at any point."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from results.events import StudyEvents
from results.pareto import MINIMISED
from results.records import JOURNAL_NAME, PLAN_NAME, JournalError, read_journal
from results.report import write_results
from results.state import StudyState
from results.tensorboard import write_end_of_study
from search import closing
from search.ablation_engine import AblationEngine
from search.afterwards import DEFAULT_TOP
from search.announce import print_forecast, print_plan
from search.disk import apply_keep
from search.engine import Engine, Limits
from search.forecast import Forecast, simulate
from search.journal import Journal
from search.known import KnownElsewhere
from search.options import AUTO, DEFAULT_MAX_FAILURES, DEFAULT_RUNS_DIR, Options, StudyError
from search.optuna_export import write_optuna_database
from search.plan import Study, make_plan, resources_of, write_plan
from search.progress import Progress
from search.ray_session import RaySession, joins_cluster
from search.requests import Inbox, drop_old_stops
from search.resume import EDITED, EXTENDS, resume_plan
from search.rungs import Scheduler, make_scheduler
from search.sampler import make_sampler
from search.scoring import score_held_out
from search.sizes import Sizer, gpu_fraction
from search.steps import profile_steps
from search.storage.copies import bring_home, leave_results
from search.storage.store import check_link, is_link
from search.storage.trouble import paused_line, storage_trouble
from search.trainers import trainer_class
from search.visibility import check_nodes
from spaces.distributions import as_tuple

FILE_WIDTH = 140
EXIT_DONE, EXIT_NOTHING_SUCCEEDED, EXIT_PAUSED, EXIT_INTERRUPTED = 0, 3, 4, 130


@dataclass
class StudyResult:
    """How a study ended: its folder, its summary and the exit status of the command."""

    folder: Path
    summary: dict[str, Any]
    exit_status: int


def run_study(options: Options, console: Console | None = None) -> StudyResult:
    """Plans, searches and reports; with `resume`, goes on from the journal.

    Raises: StudyError, SpaceError, ConfigError, DataError, JournalError: all a user's to mend.
    """
    # Tables in a file or a pipe need not fit a terminal that is not there.
    console = console or Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else FILE_WIDTH)
    started = time.time()
    options = settle_storage(options)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with contextlib.closing(Sizer()) as sizer, RaySession() as session:  # a user's mistake need not wait for torch
        study = resume_plan(options, say) if options.resume else make_plan(options, say)
        check_parts(study, say)
        if not (options.dry_run or study.resumed or shares_gpu(study, options)):
            start_early(session, study)  # while the sizer still imports torch
        problem = sizer.problem()
        if problem:
            raise StudyError(problem)
        share_devices(study, options, sizer)
        scheduler = make_scheduler(study.plan["scheduler"], study.levels, study.plan["eta"])
        expected = simulate(
            scheduler, study.plan["trials"], study.resources.slots, [1.0], study.plan.get("finalists", 0)
        )
        print_plan(study, expected, say)
        if options.dry_run:
            print_forecast(study, scheduler, say)
            return StudyResult(study.folder, {}, EXIT_DONE)
        if not study.resumed:
            try:
                write_plan(study)
            except OSError as error:
                raise StudyError(
                    f"{study.link or study.folder}: must be a place that can be written to; it said: {error.strerror or error}"
                ) from None
        return _search(study, scheduler, expected, options, started, session, console, say)


def settle_storage(options: Options) -> Options:
    """A --storage that is a folder is where runs lie; a link stays what it is, and is one that may be written down.

    Raises: StudyError for a link that cannot be, or two places.
    """
    if options.data and is_link(options.data):
        check_link(options.data, "--data")
    if options.storage is None:
        return options
    if is_link(options.storage):
        check_link(options.storage, "--storage")
        return options
    if options.runs_dir not in (DEFAULT_RUNS_DIR, options.storage):
        raise StudyError(
            f"--storage {options.storage} and --runs-dir {options.runs_dir}: one folder holds the studies; give one of them"
        )
    return replace(options, runs_dir=options.storage, storage=None)


def start_early(session: RaySession, study: Study) -> None:
    """Starts Ray before the study is written down: a new one, which no other search can be running.

    Raises: StudyError where this machine has no room for Ray.
    """
    try:
        session.start(study.resources.cores, study.resources.gpus_here)
    except OSError as error:
        raise StudyError(
            f"{tempfile.gettempdir()}: must be a place where Ray can write; it said: {error}. Make room there, or set TMPDIR"
        ) from None


def check_parts(study: Study, say: Any) -> None:
    """What a plan names must be there before the plan is written down.

    Raises: StudyError, SpaceError, JournalError for a trainer, a sampler or a study to reuse that cannot serve.
    """
    plan = study.plan
    if plan.get("trainer"):
        trainer_class(plan["trainer"])
    if study.steps:
        return
    make_sampler(
        plan["sampler"], study.space, plan["seed"], plan.get("objectives", [plan["metric"]]), plan["scheduler"]
    )
    gone = [folder for folder in plan.get("reuse", []) if study.resumed and not (Path(folder) / PLAN_NAME).is_file()]
    for folder in gone:  # what it knew is in the journal; what it did not, is trained
        say(f"   reuse  {folder} is gone; what it has not answered yet is trained")
    plan["reuse"] = [folder for folder in plan.get("reuse", []) if folder not in gone]
    KnownElsewhere.of(plan, plan["reuse"])


def shares_gpu(study: Study, options: Options) -> bool:
    """Whether trials' shares of a GPU follow from what the largest configuration needs."""
    return options.gpus_per_trial == AUTO and study.plan["profile"] == "gpu"


def share_devices(study: Study, options: Options, sizer: Sizer) -> None:
    """Takes into the plan what a built detector tells: its weights, its checkpoints' size, with `auto` its share of a GPU.

    Raises: ConfigError for a trunk or weights that cannot be had or do not fit.
    """
    told = sizer.measure(study.space, study.plan["dataset"]["classes"], with_memory=shares_gpu(study, options))
    study.checkpoint_bytes = told.get("checkpoint_bytes", 0)
    study.start = told.get("start", "")
    if not study.resumed:
        study.plan["weights"] = told.get("weights", [])
    if "peak_bytes" in told:
        share = gpu_fraction(told["peak_bytes"], told["device_bytes"])
        study.resources = resources_of(replace(options, gpus_per_trial=share), study.plan["trials"], True)


def _search(
    study: Study, scheduler: Scheduler, expected: Forecast, options: Options, started: float, session: RaySession,
    console: Console, say: Any,
) -> StudyResult:  # fmt: skip
    plan, resources = study.plan, study.resources
    journal = hold_journal(study)
    try:
        state = StudyState.of_plan(plan, read_journal(journal.path))
        engine = engine_of(study, state, journal, scheduler)
        engine.record(
            "session_started", started=started, resumed=study.resumed, slots=resources.slots, threads=resources.threads,
            device=resources.device, **{name: plan[name] for name in (*EXTENDS, *EDITED) if name in plan},
        )  # fmt: skip
        drop_old_stops(study.store)
        if study.extend_to:
            engine.extend(study.extend_to)
        interrupted = _run_legs(study, engine, journal, expected, session, console)
        if engine.storage_trouble:
            return _paused(study, engine.storage_trouble, engine.storage_reason, say)
        if study.steps and not interrupted:
            profile_steps(study, engine, say)
        reason = closing.reason_of_end(engine, interrupted)
        closing.explain_pruned(engine, scheduler)
        if not study.steps:
            score_held_out(study, engine, reason, options.test, say)
        engine.record("study_ended", reason=reason)
    except Exception as error:
        cause = journal.failure or _root_of(error)
        if isinstance(cause, (JournalError, StudyError)):
            raise cause from None
        if not storage_trouble(cause):
            raise
        return _paused(study, storage_trouble(cause), str(cause), say)
    finally:
        journal.close()
    try:
        return _close(study, state, reason, interrupted, console)
    except OSError as error:
        if not storage_trouble(error):
            raise
        return _paused(study, storage_trouble(error), str(error), say)


def _root_of(error: BaseException) -> BaseException:
    """What lies behind an error that Ray Tune has wrapped: the first that says something of the storage, else itself."""
    found: BaseException | None = error
    while found is not None:
        if storage_trouble(found):
            return found
        found = found.__cause__ or found.__context__
    return error


def hold_journal(study: Study) -> Journal:
    """The study's journal, held against other drivers.

    Raises: StudyError where the place cannot be written.
    """
    try:
        return Journal.hold(study.folder / JOURNAL_NAME, study.store if study.link else None)
    except OSError as error:
        raise StudyError(
            f"{study.link or study.folder}: must be a place that can be written to; it said: {error}"
        ) from None


def _paused(study: Study, trouble: str, reason: str, say: Any) -> StudyResult:
    say(paused_line(study.link or str(study.folder), trouble, closing.resume_command(study)))
    say(f"  {reason}")
    return StudyResult(study.folder, {}, EXIT_PAUSED)


def _close(study: Study, state: StudyState, reason: str, interrupted: bool, console: Console) -> StudyResult:
    """Writes what the study comes to, and tells it."""
    plan = study.plan
    if study.link:
        bring_home(study.store, study.folder)
    if not study.steps:
        closing.leave_best(study, state)
    found = write_results(study.folder)
    write_end_of_study(study.folder)
    if not study.steps:
        with contextlib.suppress(ValueError):  # Optuna refuses what it would not propose; the study is whole without it
            write_optuna_database(
                study.folder, plan["name"], state, study.space, plan.get("objectives", [plan["metric"]])
            )
    if study.link:
        leave_results(study.store, study.folder)
    told = found.summary
    closing.print_closing(study, state, found, reason, console)
    if interrupted:
        return StudyResult(study.folder, told, EXIT_INTERRUPTED)
    scored = [trial for trial in state.trials.values() if state.final_state(trial) in ("finished", "pruned", "stopped")]
    succeeded = bool(scored) and state.best_trial() is not None
    return StudyResult(study.folder, told, EXIT_DONE if succeeded else EXIT_NOTHING_SUCCEEDED)


def engine_of(study: Study, state: StudyState, journal: Journal, scheduler: Scheduler) -> Engine:
    """The engine of a study's plan, over its journal and what that has been replayed to."""
    plan, space = study.plan, study.space
    limits = Limits(
        plan["trials"], (plan["max_hours"] or math.inf) * 3600, plan.get("max_failures", DEFAULT_MAX_FAILURES),
        plan.get("seeds_final", 0), plan.get("top", DEFAULT_TOP), plan.get("audit", 0), plan.get("finalists", 0),
        plan.get("polish", 0), plan.get("audit_base", False),
        micro_batches=not plan.get("trainer"),
    )  # fmt: skip
    fingerprint, seed = plan["dataset"]["fingerprint"], plan["seed"]
    if study.steps:
        return AblationEngine(state, journal, space, study.steps, scheduler, limits, fingerprint, seed)
    sampler = make_sampler(plan["sampler"], space, seed, plan.get("objectives", [plan["metric"]]), plan["scheduler"])
    in_seconds = plan.get("budget_unit") == "seconds"
    return Engine(
        state, journal, space, sampler, scheduler, limits, fingerprint, seed, check=study.check,
        warm_starts=[{name: as_tuple(v) for name, v in values.items()} for values in plan.get("warm_starts", [])],
        elsewhere=KnownElsewhere.of(plan, plan.get("reuse", [])), seconds_levels=plan["levels"] if in_seconds else (),
    )  # fmt: skip


def _run_legs(
    study: Study, engine: Engine, journal: Journal, expected: Forecast, session: RaySession, console: Console
) -> bool:
    """Trains until the engine is done, and ends Ray; returns whether the user interrupted."""
    ray = session.start(study.resources.cores, study.resources.gpus_here)
    from search.placement import run_legs

    if joins_cluster():
        check_nodes(ray, study.link or str(study.folder.resolve()), study.plan["source"])

    context = {
        "folder": str(study.folder.resolve()),
        "storage": study.link,
        "fingerprint": study.plan["dataset"]["fingerprint"],
        "generation": journal.lease.generation if journal.lease else 0,
        "cluster": joins_cluster(),
        "source": study.plan["source"],
        "skip_bad": study.plan["skip_bad"],
        "metric": study.plan["metric"],
        "official_eval": study.plan["official_eval"],
        "rank_on": study.plan.get("rank_on", "best"),
        "trainer": study.plan.get("trainer", ""),
        "memory_gb": study.plan.get("memory_per_trial"),
        "measured": [name for name in study.plan.get("objectives", []) if name in MINIMISED],
        "threads": study.resources.threads,
        "device": study.resources.torch_device,
    }
    events, keep = StudyEvents(study.folder), study.plan.get("keep", "all")
    events.catch_up(engine.state, everything=bool(study.link))
    written = len(engine.state.records)
    try:
        expected_epochs = expected.epochs + study.plan.get("polish", 0)
        with Progress(engine.state, expected_epochs, study.resources.slots, console) as progress:

            def on_change() -> None:
                nonlocal written
                for record in engine.state.records[written:]:
                    if record["event"] == "epoch":
                        events.add_epoch(record)
                written = len(engine.state.records)
                if keep != "all":
                    rule = (keep, engine.limits.trials, study.plan["eta"], study.plan["scheduler"])
                    apply_keep(engine.state, study.store, *rule, record=engine.record)
                progress.refresh()

            return run_legs(engine, context, study.resources, Inbox(engine, study.store), on_change)
    finally:
        events.close()
        session.stop()
