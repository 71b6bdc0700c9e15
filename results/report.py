"""Rebuilds results/ of a study folder from its journal: tables, curves, one HTML page, best.yaml.

As a command: `python -m results.report runs/<study>`.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from results.ablation import ablation_rows, as_latex, caption
from results.audit import Audit, audit_of, top_of
from results.importance import Effect, effects
from results.pages import page_of, picture, table
from results.pareto import pareto_front
from results.plots import write_curves
from results.records import JOURNAL_NAME, JournalError, read_journal, read_plan
from results.state import STATES, StudyState
from results.tables import Row, as_csv, as_markdown, configurations, leaderboard, show, summary

ALWAYS_COUNTED = ("finished", "pruned", "failed")


@dataclass
class Results:
    """What a study comes to: the rows of its tables, computed once for files, page and terminal."""

    summary: Row
    trials: list[Row]  # leaderboard.csv
    configs: list[Row]  # configs.csv
    effects: list[Effect]
    steps: list[Row]  # ablation.csv; empty for a search
    caption: str  # of the steps
    front: list[Row] = field(default_factory=list)  # pareto.csv, where there are several objectives
    audit: Audit | None = None  # of pruned trials, where there was one


def write_results(folder: Path) -> Results:
    """Writes results/ and best.yaml of a study folder.

    Raises: JournalError where the folder is no study.
    """
    plan = read_plan(folder)
    state = StudyState.of_plan(plan, read_journal(folder / JOURNAL_NAME))
    out = folder / "results"
    out.mkdir(exist_ok=True)
    ablated = "steps" in plan
    found = Results(
        summary(plan, state), leaderboard(state), configurations(state), [] if ablated else effects(state),
        ablation_rows(plan, state) if ablated else [], caption(plan, state) if ablated else "", audit=audit_of(state, top_of(plan, state)),
    )  # fmt: skip
    if len(plan.get("objectives", [])) > 1:
        found.front = pareto_front(state, plan["objectives"])
        (out / "pareto.csv").write_text(as_csv(found.front))
        (out / "pareto.md").write_text(as_markdown(found.front))
    if found.audit:
        found.summary["audit"] = asdict(found.audit)
    for name, rows in (("leaderboard", found.trials), ("configs", found.configs)):
        (out / f"{name}.csv").write_text(as_csv(rows))
        (out / f"{name}.md").write_text(as_markdown(rows))
    if found.steps:
        (out / "ablation.csv").write_text(as_csv(found.steps))
        (out / "ablation.md").write_text(f"{as_markdown(found.steps)}\n{found.caption}\n")
        (out / "ablation.tex").write_text(as_latex(found.steps, found.caption))
    (out / "summary.json").write_text(json.dumps(found.summary, indent=1) + "\n")
    curves = write_curves(state, f"{plan['name']}: {state.metric} on {plan['dataset']['name']}", out / "curves.png")
    (out / "report.html").write_text(page(plan, state, found, curves))
    if found.configs and state.best_trial() is not None:
        write_best(folder / "best.yaml", plan, state, found.configs[0])
    return found


def write_best(path: Path, plan: dict[str, Any], state: StudyState, top: Row) -> None:
    """The top row of configs.csv as a config that `python -m detector.train --config` reads."""
    trial = state.trials[top["trial"]]
    config = {**plan["space"]["base"], **trial.trained_fields}
    score = top[f"{state.metric}_mean"]
    heading = (
        f"# best of study {plan['name']}: trial {top['trial']}, {state.metric} {score:.4f} after {trial.last_epoch} epochs\n"
        f"# train it: python -m detector.train --config {path.name} --data DIR --out DIR\n"
    )
    path.write_text(heading + yaml.safe_dump(config, sort_keys=False))


def headline(told: Row) -> str:
    """Best and base of a summary in one line."""
    best, base = told["best"], told["base"]
    if not best:
        return "no trial has scored yet"
    line = f"best: mAP {best['mAP']:.3f}, AP50 {best['AP50']:.3f} (trial {best['number']}, {best['trial']}, epoch {best['epoch']})"
    if base:
        line += f"; base: mAP {base['mAP']:.3f}, AP50 {base['AP50']:.3f} after {base['epochs']} epochs"
    return line


def counts(told: Row) -> str:
    """How the trials of a summary ended, in one line: those of the search, or of the ablation that it was."""
    told = told.get("ablation", told)
    ends = ", ".join(f"{told[name]} {name}" for name in STATES if told[name] or name in ALWAYS_COUNTED)
    return f"{told['trials']} trials: {ends}"


def page(plan: dict[str, Any], state: StudyState, found: Results, curves: bytes) -> str:
    """The study as one HTML page that opens from disk, without a network."""
    told = found.summary
    facts = {
        "study": plan["name"],
        "space": f"{plan['space']['space']} ({plan['space']['profile']})",
        "dataset": f"{plan['dataset']['name']} ({plan['dataset']['train_images']} train, {plan['dataset']['val_images']} val), "
        f"fingerprint {plan['dataset']['fingerprint']}",
        "search": f"{plan['sampler']} + {plan['scheduler']}, rungs {state.levels} {plan.get('budget_unit', 'epochs')}, "
        f"judged by the {state.prune_on} {state.metric}, ranked by the {state.rank_on}, seed {plan['seed']}",
        "trials": counts(told),
        "time": f"{told['wall_seconds'] / 60:.1f} min, train_share {show(told['train_share'])}",
        "versions": ", ".join(f"{name} {version}" for name, version in plan["versions"].items()),
        "command": plan["command"],
    }
    mattered: list[Row] = [
        {"field": e.field, "share of rank variance": e.share, "by chance": e.chance, "direction": e.direction, "n": e.n}
        for e in found.effects
    ]
    pruned: list[Row] = [
        {"trial": t.number, "id": t.id, "state": state.final_state(t), "why": t.reason}
        for t in state.trials.values()
        if t.reason
    ]
    parts = [
        f"<h1>{html.escape(plan['name'])}</h1>",
        "" if found.steps else f"<p class=headline>{html.escape(headline(told))}</p>",
        "<table class=facts>"
        + "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
        + "</table>",
        f"<h2>Learning curves</h2>{picture('score by epoch of every trial', curves)}",
        *([f"<h2>Steps</h2><p>{html.escape(found.caption)}</p>{table(found.steps)}"] if found.steps else []),
        f"<h2>Configurations</h2>{table(found.configs)}",
        *([f"<h2>Pareto front: {', '.join(plan['objectives'])}</h2>{table(found.front)}"] if found.front else []),
        *([f"<p>{html.escape(found.audit.describe())}</p>"] if found.audit else []),
        f"<h2>Trials</h2>{table(found.trials)}",
    ]
    if not found.steps:
        parts += [
            "<h2>What varied and went with the score at the first rung</h2>"
            "<p>One study, few trials: an association, not yet a cause.</p>" + table(mattered),
            f"<h2>Why trials were not continued</h2>{table(pruned)}",
        ]
    return page_of(plan["name"], parts)


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m results.report", description="Rebuilds results/ from a study's journal."
    )
    parser.add_argument("run", type=Path, help="study folder, e.g. runs/retinanet-1")
    options = parser.parse_args(arguments)
    try:
        told = write_results(options.run).summary
    except (JournalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{options.run / 'results'}: {counts(told)}", file=sys.stderr)


if __name__ == "__main__":
    main()
