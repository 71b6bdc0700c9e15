"""Rebuilds results/ of a study folder from its journal: tables, curves, one HTML page, best.yaml.

As a command: `python -m results.report runs/<study>`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from results.ablation import ablation_rows, as_latex, caption
from results.audit import Audit, audit_of, top_of
from results.charts import learning_curves
from results.draw_matplotlib import drawn
from results.evidence import Evidence
from results.heading import counts, longer_lines, weights_lines
from results.importance import Importance
from results.page import page
from results.pareto import pareto_front
from results.records import JournalError
from results.rendering import add_group_option
from results.state import StudyState
from results.tables import Row, as_csv, as_markdown, configurations, leaderboard, summary
from results.verdict import Verdict, verdict_of


@dataclass
class Results:
    """What a study comes to: the rows of its tables, computed once for files, page and terminal."""

    summary: Row
    trials: list[Row]  # leaderboard.csv
    configs: list[Row]  # configs.csv
    importance: Importance
    steps: list[Row]  # ablation.csv; empty for a search
    caption: str  # of the steps
    front: list[Row] = field(default_factory=list)  # pareto.csv, where there are several objectives
    audit: Audit | None = None  # of pruned trials, where there was one
    verdict: Verdict | None = None  # of a search

    def closing_lines(self) -> list[str]:
        """What a study comes to, in a few sentences: the verdict, what to do next, and what longer training gave."""
        told = [f"verdict: {self.verdict.describe()}", f"  next: {self.verdict.advice()}"] if self.verdict else []
        return [*told, *longer_lines(self.summary)]


def write_results(folder: Path, group_by: str | None = None) -> Results:
    """Writes results/ and best.yaml of a study folder; `group_by` as for Evidence.

    Raises: JournalError where the folder is no study.
    """
    evidence = Evidence(folder, group_by)
    plan, state = evidence.plan, evidence.state
    out = folder / "results"
    out.mkdir(exist_ok=True)
    ablated = "steps" in plan
    found = Results(
        summary(plan, state), leaderboard(state), configurations(state), evidence.importance,
        ablation_rows(plan, state) if ablated else [], caption(plan, state) if ablated else "", audit=audit_of(state, top_of(plan, state)),
    )  # fmt: skip
    if len(plan.get("objectives", [])) > 1:
        found.front = pareto_front(state, plan["objectives"])
        (out / "pareto.csv").write_text(as_csv(found.front))
        (out / "pareto.md").write_text(as_markdown(found.front))
    if found.audit:
        found.summary["audit"] = asdict(found.audit)
    if not ablated:
        found.verdict = verdict_of(state)
        found.summary["verdict"] = found.verdict.to_dict() if found.verdict else None
    for name, rows in (("leaderboard", found.trials), ("configs", found.configs)):
        (out / f"{name}.csv").write_text(as_csv(rows))
        (out / f"{name}.md").write_text(as_markdown(rows))
    if found.steps:
        (out / "ablation.csv").write_text(as_csv(found.steps))
        (out / "ablation.md").write_text(f"{as_markdown(found.steps)}\n{found.caption}\n")
        (out / "ablation.tex").write_text(as_latex(found.steps, found.caption))
    (out / "summary.json").write_text(json.dumps(found.summary, indent=1) + "\n")
    curves = learning_curves(evidence)
    if curves is not None:
        title = f"{plan['name']}: {state.metric} on {plan['dataset']['name']}"
        (out / "curves.png").write_bytes(drawn(replace(curves, title=title), "png"))
    (out / "report.html").write_text(
        page(evidence, found.summary, found.trials, found.front, found.audit, found.closing_lines())
    )
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
        + "".join(f"# starts from {line}\n" for line in weights_lines(plan))
    )
    path.write_text(heading + yaml.safe_dump(config, sort_keys=False))


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m results.report", description="Rebuilds results/ from a study's journal."
    )
    parser.add_argument("run", type=Path, help="study folder, e.g. runs/retinanet-1")
    add_group_option(parser)
    options = parser.parse_args(arguments)
    try:
        told = write_results(options.run, options.group_by).summary
    except (JournalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{options.run / 'results'}: {counts(told)}", file=sys.stderr)


if __name__ == "__main__":
    main()
