"""How a study ends: why each trial stopped, the held-out test, and what the user reads last."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from detector.data.dataset import DataError, DataSource
from results.ablation import title as steps_title
from results.heading import counts, headline, in_budget
from results.importance import CHANCE_TOLD, Importance
from results.report import Results
from results.state import StudyState, Trial
from results.tables import Row, delivered, differences, ranking_key, show
from results.view import interval
from results.views import p_value
from search.engine import Engine
from search.journal import write_atomically
from search.options import DEFAULT_RUNS_DIR
from search.plan import Study
from search.progress import describe_values
from search.rungs import Scheduler
from search.storage.copies import BEST_NAME, best_places
from search.storage.data import source_here
from search.storage.store import StorageError, above, get_files

SHOWN_CONFIGS, SHOWN_EFFECTS = 8, 5


def leave_best(study: Study, state: StudyState) -> None:
    """Puts the weights of the study's best detector at its top: best.pt, ready for detector.predict.

    Raises: OSError, as of a full disk.
    """
    best, place = delivered(state), study.folder / BEST_NAME
    places = best_places(best) if best is not None else []
    if study.link:
        get_files(study.store, [f"{name}/{BEST_NAME}" for name in places if not Path(name).is_absolute()], study.folder)
    found = next((file for name in places if (file := study.folder / name / BEST_NAME).is_file()), None)
    if found is None:
        place.unlink(missing_ok=True)  # that of another winner
        return
    write_atomically(place, found.read_bytes())
    if study.link:
        study.store.put(BEST_NAME, found.read_bytes())


def explain_pruned(engine: Engine, scheduler: Scheduler) -> None:
    """Journals why each paused trial was not promoted."""
    for trial in list(engine.state.trials.values()):
        if (
            trial.role == "search"
            and not (trial.outcome or trial.withdrawn)
            and trial.leg_target is None
            and trial.rung >= 0
        ):
            reason = scheduler.explain(engine.rungs, trial.id, trial.rung)
            if reason != trial.reason:
                engine.record("trial_pruned", trial=trial.id, reason=reason)


def reason_of_end(engine: Engine, interrupted: bool) -> str:
    """Why a study ends now, in one word."""
    return (
        "interrupted"
        if interrupted
        else "max_hours"
        if engine.out_of_time
        else "stopped"
        if engine.asked_to_stop
        else "space_exhausted"
        if engine.exhausted
        else "done"
    )


def resume_command(study: Study) -> str:
    """The command that continues a study."""
    words = [
        "python",
        "-m",
        "search.ablate" if study.steps else "search.run",
        "--space",
        study.plan["space_option"],
        "--resume",
        "--name",
        study.folder.name,
    ]
    if study.link:
        words += ["--storage", above(study.link)]
    if str(study.folder.parent) != DEFAULT_RUNS_DIR:
        words += ["--runs-dir", str(study.folder.parent)]
    return shlex.join(words)


def print_closing(study: Study, state: StudyState, found: Results, reason: str, console: Console) -> None:
    """The ranking, what varied and mattered, why trials were pruned, and three next commands."""
    if reason == "interrupted":
        console.print("interrupted; the table so far:", highlight=False)
    told = found.summary
    if found.steps:
        console.print(ablation(found.steps, steps_title(study.plan)))
        _say(console, found.caption)
    else:
        console.print(ranking(state, found.configs))
        _say(console, headline(told))
        for line in found.closing_lines():
            _say(console, line)
        if found.front:
            _say(console, f"{len(found.front)} configurations on the Pareto front: results/pareto.md")
        if found.audit:
            _say(console, found.audit.describe())
    _say(
        console,
        f"{counts(told)}; {told['epochs']} epochs in {told['wall_seconds'] / 60:.1f} min, "
        f"train_share {show(told['train_share'])}",
    )
    if not found.steps:
        _print_effects(study.plan, state, found.importance, console)
    _print_reasons(state, console)
    run = study.folder
    _say(console, "\nnext:")
    _say(console, f"  {shlex.join(['tensorboard', '--logdir', str(run)])}")
    if (run / BEST_NAME).is_file():
        predict = ["python", "-m", "detector.predict", "--checkpoint", str(run / BEST_NAME), "--images", "IMAGES"]
        _say(console, f"  {shlex.join([*predict, '--out', f'{run.name}-pictures'])}")
    else:
        train = ["python", "-m", "detector.train", "--config", str(run / "best.yaml"), *_data_options(study)]
        _say(console, f"  {shlex.join([*train, '--out', f'{run.name}-best'])}")
    _say(console, f"  {resume_command(study)}{'' if reason == 'interrupted' else _extension(study)}")
    table = "ablation.md" if found.steps else "configs.csv"
    _say(console, f"results: {run / 'results'} (report.html, leaderboard.csv, {table}, curves.png)")


def ranking(state: StudyState, configs: list[Row]) -> Table:
    """The best configurations as a terminal table."""
    table = Table(title="configurations, best first", title_justify="left")
    for heading in ("config", "trial", f"{state.metric}", "rung", "n", "what differs from the base"):
        table.add_column(heading, no_wrap=heading != "what differs from the base")
    for position, row in enumerate(configs[:SHOWN_CONFIGS]):
        trial = state.trials[row["trial"]]
        cells = [
            row["config"],
            str(trial.number),
            show(row[f"{state.metric}_mean"]),
            str(row["best_rung"]),
            str(row["n"]),
        ]
        table.add_row(
            *cells, describe_values(differences(state, trial)) or "base", style="bold" if position == 0 else None
        )
    return table


def ablation(rows: list[Row], title: str) -> Table:
    """The steps of an ablation as a terminal table of 80 columns; the files hold its other columns."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    published = any(row["report_mAP"] is not None or row["report_ms"] is not None for row in rows)
    columns: dict[str, Callable[[Row], str]] = {
        "step": lambda row: row["step"],
        "size": lambda row: f"{row['parameters'] / 1e6:.2f}M" if row["parameters"] else "-",
        "n": lambda row: str(row["n"]),
        "mAP": lambda row: show(row["mAP_mean"]),
        "sd": lambda row: show(row["mAP_sd"]),
        "delta": lambda row: "-" if math.isnan(row["delta"]) else f"{row['delta']:+.3f}",
    }
    if published:
        columns |= {"AP50": lambda row: show(row["AP50"])}
    else:
        columns |= {
            "95 % over seeds": lambda row: interval(row["delta_low"], row["delta_high"], signed=True),
            "p (Holm)": lambda row: p_value(row["p_holm"]),
        }
    columns |= {"ms/batch": lambda row: _whole(row["ms_per_batch"]), "min": lambda row: f"{row['train_minutes']:.1f}"}
    if published:
        columns |= {"report": lambda row: show(row["report_mAP"]), "its ms": lambda row: _whole(row["report_ms"])}
    for heading in columns:
        table.add_column(heading, no_wrap=heading != "step", justify="left" if heading == "step" else "right")
    for row in rows:
        table.add_row(*(tell(row) for tell in columns.values()))
    return table


def _whole(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"


def _extension(study: Study) -> str:
    """The words that make a finished study go on further."""
    if study.steps:
        return f" --seeds {2 * study.plan['trials'] // len(study.steps)}"
    return f" --trials {study.plan['trials'] * 2}"


def _print_effects(plan: dict[str, Any], state: StudyState, importance: Importance, console: Console) -> None:
    found = [effect for effect in importance.effects if effect.chance <= CHANCE_TOLD][:SHOWN_EFFECTS]
    _say(
        console,
        f"\nwhat mattered at the first rung ({in_budget(plan, state.levels[0])}; all trials, survivors or not):",
    )
    for effect in found:
        share = effect.share
        interval_told = f" ({share.low:.0%} .. {share.high:.0%})" * (not math.isnan(share.low))
        made = f"{share.main:.0%}{interval_told} of the predicted variance over the space, " * (
            not math.isnan(share.main)
        )
        _say(console, f"  {effect.field}: {effect.direction}; {made}by chance {effect.chance:.0%} (n={effect.n})")
    if not found:
        trials = len(state.arrivals[0]) if state.arrivals else 0
        _say(console, f"  nothing stands out from chance (at {CHANCE_TOLD:.0%}) in {trials} trials")


def _print_reasons(state: StudyState, console: Console) -> None:
    stopped = sorted((t for t in state.trials.values() if t.reason), key=lambda t: ranking_key(t, state.metric))
    if stopped:
        _say(console, "\nwhy trials were not continued:")
    for trial in stopped:
        _say(console, f"  trial {trial.number:>3} {trial.id}: {state.final_state(trial)}: {_why(trial)}")


def _why(trial: Trial) -> str:
    return trial.reason if trial.outcome != "failed" else f"{trial.reason} (traceback in trials/{trial.id}/error.txt)"


def _data_options(study: Study) -> list[str]:
    source = study.plan["source"]
    with contextlib.suppress(DataError, StorageError):  # it is only to be named
        source = source_here(source)
    return DataSource.from_dict(source).to_options() + ["--skip-bad"] * study.plan["skip_bad"]


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
