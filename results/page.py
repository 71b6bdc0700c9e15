"""A study's report: one HTML file that opens from disk, every plot and picture inside."""

from __future__ import annotations

import html
import math
import shlex
import statistics
from typing import Any

from results.audit import Audit
from results.charts import charts
from results.evidence import Evidence
from results.gallery import examples
from results.heading import counts, headline, in_budget, weights_lines
from results.marks import Chart
from results.pages import (
    Section,
    facts,
    folded,
    folded_table,
    numbers,
    page_of,
    picture,
    plot,
    table,
    titled,
    view_table,
)
from results.state import Trial
from results.tables import MEASURED, Row, differences, measured_score, told_best, winner
from results.view import View
from results.views import compared_trials, views

GALLERY_TITLES = {
    "found": "Found best",
    "false alarms": "Surest false alarms",
    "misses": "Most missed",
}


MOST_ROWS = 1000  # of a table


def page(
    evidence: Evidence, summary: Row, trials: list[Row], front: list[Row], audit: Audit | None, verdict: list[str]
) -> str:
    """The whole page, from what the files of results/ hold; `verdict`: sentences that stand first."""
    plan = evidence.plan
    drawn = {chart.name: chart for chart in charts(evidence)}
    tables = {view.name: view for view in views(evidence)}
    ablated = "steps" in plan
    told = {**summary, "best": told_best(evidence.winner, evidence.state.metric)}  # the one that best.yaml holds
    head = [
        f"<h1>{html.escape(plan['name'])}</h1>",
        *(f"<p class={'verdict' if n == 0 else 'more'}>{html.escape(line)}</p>" for n, line in enumerate(verdict)),
        "" if ablated else f"<p class=headline>{html.escape(headline(told))}</p>",
        numbers(_headline_numbers(evidence)),
        f"<p>{html.escape(counts(summary))}; {summary['wall_seconds'] / 60:.1f} minutes</p>",
    ]
    sections = [
        Section("result", "Steps" if ablated else "Ranking", _result(evidence, tables, drawn, audit)),
        Section("curves", "Learning", _grid(drawn, ["curves", "best_so_far"])),
        Section("fields", "What mattered", _fields(drawn, tables)),
        Section("front", "Pareto front", [*_grid(drawn, ["pareto"]), table(front)] if front else []),
        Section("classes", "Classes and sizes", _classes(drawn, tables)),
        Section("images", "What the best finds and misses", _gallery(evidence)),
        Section("cost", "Cost", [view_table(tables["cost"])]),
        Section("trials", "Trials", [_trials(trials), titled("Not continued", table(_reasons(evidence)))]),
        Section("failures", "Failures", [table(_failures(evidence))]),
        Section("plan", "Plan and data", [facts(_plan(evidence)), titled("Dataset", facts(_data(plan))), _dropped(plan)]),
        Section("provenance", "Provenance", [facts(_provenance(plan)), _commands(evidence)]),
    ]  # fmt: skip
    return page_of(plan["name"], head, sections)


def _headline_numbers(evidence: Evidence) -> dict[str, str]:
    """The few numbers that stand on top of the report."""
    state = evidence.state
    best = evidence.winner
    epoch = best.ranked_epoch(state.metric) if best else None
    if best is None or epoch is None:
        return {}
    low, high = evidence.image_interval(best.id)
    told = {f"best {name}": f"{best.score(name, epoch):.3f}" for name in dict.fromkeys((state.metric, "mAP", "AP50"))}
    if not math.isnan(low):
        told["mAP, 95 % over images"] = f"{low:.3f} .. {high:.3f}"
    finals = [
        score
        for trial in state.with_role("final")
        if trial.config_hash == (winner(state) or best).config_hash and trial.outcome in MEASURED
        and not math.isnan(score := measured_score(trial, state.metric))
    ]  # fmt: skip
    if finals:
        told[f"{state.metric}, mean of {len(finals)} fresh seeds"] = f"{statistics.fmean(finals):.3f}"
    told["trials"] = str(len(state.with_role("search")))
    told["differs from the base in"] = str(len(differences(state, best)))
    return told


def _result(evidence: Evidence, tables: dict[str, View], drawn: dict[str, Chart], audit: Audit | None) -> list[str]:
    tests = [r for r in evidence.state.records if r["event"] == "test_scored"]
    rows: list[Row] = [
        {"which": r["which"], "trial": r["trial"], "mAP": r["metrics"]["mAP"], "AP50": r["metrics"]["AP50"]}
        for r in tests
    ]
    return [
        *_grid(drawn, ["waterfall"]),
        view_table(tables.get("ranking") or tables["ablation"]),
        titled("On the held-out split, scored once", table(rows)),
        f"<p>{html.escape(audit.describe())}.</p>" if audit else "",
    ]


def _grid(drawn: dict[str, Chart], names: list[str]) -> list[str]:
    """Charts by name, each under its title; those that the study has."""
    return [titled(drawn[name].title, plot(drawn[name])) for name in names if name in drawn]


def _fields(drawn: dict[str, Chart], tables: dict[str, View]) -> list[str]:
    slices = [chart for name, chart in drawn.items() if name.startswith("slice_")]
    cells = "".join(f"<div>{titled(chart.title, plot(chart))}</div>" for chart in slices)
    return [
        *_grid(drawn, ["importance"]),
        folded_table(tables["importance"]) if "importance" in tables else "",
        *_grid(drawn, ["path"]),
        folded_table(tables["path"]) if "path" in tables else "",
        *_grid(drawn, ["parallel"]),
        folded("field by field", f"<div class=grid>{cells}</div>") if cells else "",
    ]


def _classes(drawn: dict[str, Chart], tables: dict[str, View]) -> list[str]:
    return [
        *_grid(drawn, ["classes"]),
        view_table(tables["classes"]),
        view_table(tables["sizes"]),
        *_grid(drawn, ["precision_recall", "confusion"]),
    ]


def _gallery(evidence: Evidence) -> list[str]:
    best = compared_trials(evidence).get("best")
    shown = examples(evidence, best) if best is not None else []
    if not shown:
        return []
    parts = [
        "<p>First the truth (green: found, yellow: missed), then the detections from the score of best F1 of each class on (green: "
        "right, orange: false alarms).</p>"
    ]
    for kind, title in GALLERY_TITLES.items():
        pictures = [
            f"<figure>{picture(f'{e.file_name}: {e.told}', e.jpeg, 'jpeg')}<figcaption>{html.escape(f'{e.file_name}: {e.told}')}</figcaption></figure>"
            for e in shown
            if e.kind == kind
        ]
        parts.append(titled(title, "".join(pictures)))
    return parts


def _trials(rows: list[Row]) -> str:
    """The leaderboard, as far as a browser shows it gladly."""
    if len(rows) <= MOST_ROWS:
        return folded(f"all {len(rows)} trials", table(rows))
    return folded(f"the first {MOST_ROWS} of {len(rows)} trials; leaderboard.csv has all", table(rows[:MOST_ROWS]))


def _reasons(evidence: Evidence) -> list[Row]:
    state = evidence.state
    return [
        {"trial": t.number, "id": t.id, "state": state.final_state(t), "why": t.reason}
        for t in state.trials.values()
        if t.reason and state.final_state(t) in ("pruned", "stopped")
    ][:MOST_ROWS]


def _failures(evidence: Evidence) -> list[Row]:
    """Every leg that ended otherwise than it should, and what was made of it."""
    state = evidence.state
    bad = ("diverged", "out_of_memory", "error", "lost", "failed", "infeasible")
    return [
        {"trial": state.trials[r["trial"]].number, "id": r["trial"], "outcome": r["outcome"], "why": r.get("reason", ""),
         "now": state.final_state(state.trials[r["trial"]])}
        for r in state.records if r["event"] == "leg_ended" and r["outcome"] in bad
    ]  # fmt: skip


def _plan(evidence: Evidence) -> dict[str, str]:
    plan, state = evidence.plan, evidence.state
    return {
        "space": f"{plan['space']['space']} ({plan['space']['profile']})",
        "search": f"{plan['sampler']} + {plan['scheduler']}, study seed {plan['seed']}",
        "budget": f"{plan['trials']} trials, rungs {in_budget(plan, *state.levels)}",
        "judged": f"pruned by the {state.prune_on} {state.metric}, ranked by the {state.rank_on}",
        "evaluated by": "pycocotools" if plan["official_eval"] else "faster-coco-eval",
        "ended": state.ended or "it has not ended",
    }


def _data(plan: dict[str, Any]) -> dict[str, str]:
    data = plan["dataset"]
    small, medium = data["area_ranges_px"]
    return {
        "name": data["name"],
        "fingerprint": data["fingerprint"],
        "images": f"{data['train_images']} train, {data['val_images']} val, {data['test_images']} test",
        "boxes": f"{data['train_boxes']} train, {data['val_boxes']} val",
        "classes": ", ".join(data["classes"]),
        "sizes": f"small below {small:g} x {small:g} pixels, large from {medium:g} x {medium:g}",
    }


def _dropped(plan: dict[str, Any]) -> str:
    lines = "".join(f"<li>{html.escape(str(note))}</li>" for note in plan["dropped"])
    return folded(f"left out of the data ({len(plan['dropped'])})", f"<ul>{lines}</ul>") if lines else ""


def _provenance(plan: dict[str, Any]) -> dict[str, str]:
    return {
        "weights": "; ".join(weights_lines(plan)) or "random",
        "command": plan["command"],
        "commit": plan["commit"] or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in plan["versions"].items()),
    }


def _commands(evidence: Evidence) -> str:
    """What trains each row again, and what makes this page again."""
    run = shlex.quote(str(evidence.folder))

    def again(trial: Trial) -> str:
        return f"python -m search.rerun {run} {trial.id}  # trial {trial.number}"

    scored = [t for t in evidence.state.trials.values() if t.epochs]
    lines = "\n".join([f"python -m results.report {run}", *map(again, scored[:MOST_ROWS])])
    return folded("commands that make every row again", f"<pre>{html.escape(lines)}</pre>")
