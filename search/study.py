"""run_study: one search from plan to ranking, resumable at any point."""

from __future__ import annotations

import errno
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from results.records import JOURNAL_NAME, StudyState, read_journal
from results.report import write_results
from results.tensorboard import StudyEvents, write_end_of_study
from search import closing
from search.engine import Engine, Limits
from search.forecast import (
    PROBED_CONFIGS,
    SECONDS_TO_REPORT,
    SECONDS_TO_START,
    Forecast,
    probe_epoch_seconds,
    simulate,
)
from search.journal import Journal
from search.options import Options, StudyError
from search.plan import Study, make_plan, resume_plan, write_plan
from search.progress import Progress
from search.resources import start_ray
from search.rungs import Scheduler, make_scheduler
from search.sampler import make_sampler

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
    console = console or Console()
    started = time.time()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    pair = subprocess.Popen([sys.executable, "-m", "detector.torch_pair"], stdout=subprocess.PIPE, text=True)
    try:
        study = resume_plan(options, say) if options.resume else make_plan(options, say)
    except BaseException:
        pair.kill()  # a user's mistake need not wait for torch
        pair.communicate()
        raise
    problem = pair.communicate()[0].strip()
    if problem:
        raise StudyError(problem)
    scheduler = make_scheduler(study.plan["scheduler"], study.plan["grace"], study.plan["epochs"], study.plan["eta"])
    expected = simulate(scheduler, study.plan["trials"], study.resources.slots, [1.0])
    print_plan(study, expected, say)
    if options.dry_run:
        print_forecast(study, scheduler, say)
        return StudyResult(study.folder, {}, EXIT_DONE)
    if not study.resumed:
        write_plan(study)
    return _search(study, scheduler, expected, options, started, console, say)


def _search(
    study: Study, scheduler: Scheduler, expected: Forecast, options: Options, started: float, console: Console, say: Any
) -> StudyResult:
    plan, resources = study.plan, study.resources
    journal = Journal(study.folder / JOURNAL_NAME)
    state = StudyState.replay(read_journal(journal.path), plan["metric"], plan["levels"])
    engine = Engine(
        state, journal, study.space, make_sampler(plan["sampler"], study.space, plan["seed"], plan["metric"]), scheduler,
        Limits(plan["trials"], (plan["max_hours"] or math.inf) * 3600), plan["dataset"]["fingerprint"], plan["seed"],
    )  # fmt: skip
    try:
        engine.record(
            "session_started", started=started, resumed=study.resumed, slots=resources.slots, threads=resources.threads,
            device=resources.device, trials=plan["trials"], max_hours=plan["max_hours"],
        )  # fmt: skip
        interrupted = _run_legs(study, engine, expected, console)
        if engine.disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reason = closing.end(engine, scheduler, interrupted)
        if options.test:
            closing.score_on_test(study, engine, say)
    except Exception as error:
        cause = journal.failure or error
        if not isinstance(cause, OSError) or cause.errno != errno.ENOSPC:
            raise
        say(
            f"the disk of {study.folder} is full: the study is paused. Make room, then: {closing.resume_command(study)}"
        )
        return StudyResult(study.folder, {}, EXIT_PAUSED)
    finally:
        journal.close()
    found = write_results(study.folder)
    write_end_of_study(study.folder, plan, state)
    told = found.summary
    closing.print_closing(study, state, found, reason, console)
    if interrupted:
        return StudyResult(study.folder, told, EXIT_INTERRUPTED)
    succeeded = told["finished"] + told["pruned"] + told["stopped"] > 0 and told["best"] is not None
    return StudyResult(study.folder, told, EXIT_DONE if succeeded else EXIT_NOTHING_SUCCEEDED)


def _run_legs(study: Study, engine: Engine, expected: Forecast, console: Console) -> bool:
    """Starts Ray, trains until the engine is done; returns whether the user interrupted."""
    temp_dir = tempfile.mkdtemp(prefix="ds-")  # short: Ray's socket paths must stay under 107 characters
    ray = start_ray(study.resources, temp_dir)
    from search.placement import run_legs

    context = {
        "folder": str(study.folder.resolve()),
        "source": study.plan["source"],
        "skip_bad": study.plan["skip_bad"],
        "metric": study.plan["metric"],
        "official_eval": study.plan["official_eval"],
        "threads": study.resources.threads,
        "device": study.resources.torch_device,
    }
    events = StudyEvents(study.folder)
    written = len(engine.state.records)
    try:
        with Progress(engine.state, expected.epochs, study.resources.slots, console) as progress:

            def on_change() -> None:
                nonlocal written
                for record in engine.state.records[written:]:
                    if record["event"] == "epoch":
                        events.add_epoch(record)
                events.flush()
                written = len(engine.state.records)
                progress.refresh()

            return run_legs(engine, context, study.resources, on_change)
    finally:
        events.close()
        ray.shutdown()
        shutil.rmtree(temp_dir, ignore_errors=True)


def print_plan(study: Study, expected: Forecast, say: Any) -> None:
    """The plan: data, profile, space, rungs, resources, and where output goes."""
    plan, data = study.plan, study.plan["dataset"]
    rungs = ", ".join(f"~{n} reach {level}" for level, n in zip(plan["levels"], expected.trials_by_rung, strict=True))
    base = study.space.base
    test = f", {data['test_images']} held out" if data["test_images"] else ""
    turn = "a full turn" if data["full_turn"] else "not a full turn"
    passes = base.steps_per_epoch * base.batch_size / data["train_images"]
    epoch = (
        f"{base.steps_per_epoch} steps of {base.batch_size} images ({passes:.2g} passes)"
        if base.steps_per_epoch
        else "one pass"
    )
    lines = {
        "study": f"{plan['name']}" + (" (resumed)" if study.resumed else ""),
        "data": f"{data['name']}: {data['train_images']} train, {data['val_images']} val{test}; "
        f"{data['train_boxes']} + {data['val_boxes']} boxes, {len(data['classes'])} classes, {turn}",
        "profile": f"{plan['profile']}: {base.trunk} x {base.trunk_width:g} on {base.image_size_px[0]} x {base.image_size_px[1]} pixels; "
        f"{'; '.join(study.space.notes) or 'nothing fitted'}",
        "space": f"{plan['space']['space']}, {len(study.space.fields)} fields: {', '.join(study.space.fields)}",
        "search": f"{plan['sampler']} proposes, {plan['scheduler']} prunes, {plan['trials']} trials (the first is the base), "
        f"seed {plan['seed']}, by {plan['metric']}",
        "rungs": f"{rungs} epochs; an epoch is {epoch}; about {expected.epochs:.0f} epochs in all",
        "machine": study.resources.describe(),
        "output": str(study.folder),
    }
    for name, text in lines.items():
        say(f"{name:>8}  {text}")
    for note in plan["dropped"][:5]:
        say(f" dropped  {note}")
    if len(plan["dropped"]) > 5:
        say(f" dropped  .. {len(plan['dropped'])} in all, listed in study.json")


def print_forecast(study: Study, scheduler: Scheduler, say: Any) -> None:
    """The predicted wall time, from one-batch probes of the base and a few proposals."""
    sampler = make_sampler("random", study.space, study.plan["seed"], study.plan["metric"])
    blank = StudyState(study.plan["metric"], study.plan["levels"])
    proposals = [sampler.propose(number, blank) or {} for number in range(1, PROBED_CONFIGS + 1)]
    configs = [study.space.base.to_dict(), *(study.space.config(values).to_dict() for values in proposals)]
    say("probing one batch of the base and a few proposals")
    seconds = probe_epoch_seconds(
        configs, study.plan["source"], study.plan["skip_bad"], study.resources.slots, study.resources.threads,
        study.resources.torch_device,
    )  # fmt: skip
    forecast = simulate(scheduler, study.plan["trials"], study.resources.slots, seconds)
    total = SECONDS_TO_START + forecast.seconds + SECONDS_TO_REPORT
    say(f"  probed  {min(seconds):.1f} .. {max(seconds):.1f} s per epoch, {study.resources.slots} at a time")
    say(f"predicted {total / 60:.1f} minutes for {forecast.epochs:.0f} epochs")
