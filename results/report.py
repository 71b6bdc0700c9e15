"""Rebuilds results/ of a study folder from its journal: tables, curves, one HTML page, best.yaml.

As a command: `python -m results.report runs/<study>`.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from results.importance import effects
from results.plots import write_curves
from results.records import JOURNAL_NAME, JournalError, StudyState, read_journal, read_plan
from results.tables import Row, as_csv, as_markdown, configurations, leaderboard, load_state, show, summary


def write_results(folder: Path) -> dict[str, Any]:
    """Writes results/ and best.yaml of a study folder and returns the summary.

    Raises: JournalError where the folder is no study.
    """
    plan = read_plan(folder)
    state = load_state(plan, read_journal(folder / JOURNAL_NAME))
    out = folder / "results"
    out.mkdir(exist_ok=True)
    trials, configs, told = leaderboard(state), configurations(state), summary(plan, state)
    for name, rows in (("leaderboard", trials), ("configs", configs)):
        (out / f"{name}.csv").write_text(as_csv(rows))
        (out / f"{name}.md").write_text(as_markdown(rows))
    (out / "summary.json").write_text(json.dumps(told, indent=1) + "\n")
    curves = write_curves(state, f"{plan['name']}: {state.metric} on {plan['dataset']['name']}", out / "curves.png")
    (out / "report.html").write_text(page(plan, state, told, trials, configs, curves))
    if configs and state.best_trial() is not None:
        write_best(folder / "best.yaml", plan, state, configs[0])
    return told


def write_best(path: Path, plan: dict[str, Any], state: StudyState, top: Row) -> None:
    """The top row of configs.csv as a config that `python -m detector.train --config` reads."""
    config = {**plan["space"]["base"], **state.trials[top["trial"]].varied}
    score = top[f"{state.metric}_mean"]
    heading = (
        f"# best of study {plan['name']}: trial {top['trial']}, {state.metric} {score:.4f} at {top['best_rung']} epochs\n"
        f"# train it: python -m detector.train --config {path.name} --data DIR --out DIR\n"
    )
    path.write_text(heading + yaml.safe_dump(config, sort_keys=False))


def page(
    plan: dict[str, Any], state: StudyState, told: Row, trials: list[Row], configs: list[Row], curves: bytes
) -> str:
    """The study as one HTML page that opens from disk, without a network."""
    best = told["best"]
    headline = "no trial has scored yet"
    if best:
        headline = f"best mAP {best['mAP']:.3f}, AP50 {best['AP50']:.3f} (trial {best['trial']}, epoch {best['epoch']})"
        if told["base"]:
            headline += f"; base mAP {told['base']['mAP']:.3f} after {told['base']['epochs']} epochs"
    facts = {
        "study": plan["name"],
        "space": f"{plan['space']['space']} ({plan['space']['profile']})",
        "dataset": f"{plan['dataset']['name']} ({plan['dataset']['train_images']} train, {plan['dataset']['val_images']} val), "
        f"fingerprint {plan['dataset']['fingerprint']}",
        "search": f"{plan['sampler']} + {plan['scheduler']}, rungs {plan['levels']}, seed {plan['seed']}",
        "trials": f"{told['trials']}: {told['finished']} finished, {told['pruned']} pruned, {told['failed']} failed, "
        f"{told['diverged']} diverged, {told['stopped']} stopped",
        "time": f"{told['wall_seconds'] / 60:.1f} min, train_share {show(told['train_share'])}",
        "versions": ", ".join(f"{name} {version}" for name, version in plan["versions"].items()),
        "command": plan["command"],
    }
    mattered: list[Row] = [
        {"field": e.field, "share of rank variance": e.share, "by chance": e.chance, "direction": e.direction, "n": e.n}
        for e in effects(state)
    ]
    pruned: list[Row] = [
        {"trial": t.number, "id": t.id, "state": state.final_state(t), "why": t.reason}
        for t in state.trials.values()
        if t.reason
    ]
    picture = base64.b64encode(curves).decode()
    parts = [
        f"<h1>{html.escape(plan['name'])}</h1><p class=headline>{html.escape(headline)}</p>",
        "<table class=facts>"
        + "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
        + "</table>",
        f'<h2>Learning curves</h2><img alt="score by epoch of every trial" src="data:image/png;base64,{picture}">',
        f"<h2>Configurations</h2>{_table(configs)}",
        f"<h2>Trials</h2>{_table(trials)}",
        "<h2>What varied and went with the score at the first rung</h2>"
        "<p>One study, few trials: an association, not yet a cause.</p>" + _table(mattered),
        f"<h2>Why trials were not continued</h2>{_table(pruned)}",
    ]
    return _PAGE.format(title=html.escape(plan["name"]), body="\n".join(parts))


def _table(rows: list[Row]) -> str:
    if not rows:
        return "<p>none</p>"
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(show(row.get(name)))}</td>" for name in names) + "</tr>" for row in rows
    )
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}
.headline {{ font-size: 1.25rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left; white-space: nowrap; }}
.facts td {{ white-space: normal; }}
.scroll {{ overflow-x: auto; }}
img {{ max-width: 100%; height: auto; background: white; }}
</style></head><body>
{body}
</body></html>
"""


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m results.report", description="Rebuilds results/ from a study's journal."
    )
    parser.add_argument("run", type=Path, help="study folder, e.g. runs/retinanet-1")
    options = parser.parse_args(arguments)
    try:
        told = write_results(options.run)
    except (JournalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{options.run / 'results'}: {told['trials']} trials written", file=sys.stderr)


if __name__ == "__main__":
    main()
