"""The table of an ablation: a row a step, with what it changed, its score over seeds, its size and speed.

A step's score is that of its last epoch: each was trained to the end, and nothing was picked. `delta` is the mean over
the seeds that both steps have, of step minus step above.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from results.state import StudyState, Trial
from results.tables import Row, show

SCORES = ("AP50", "AP_small", "AP_medium", "AP_large")


def ablation_rows(plan: dict[str, Any], state: StudyState) -> list[Row]:
    """A row a step of the plan's chain, in its order; what is not there yet is NaN or None."""
    speeds = {record["step"]: record for record in state.records if record["event"] == "step_profiled"}
    rows: list[Row] = []
    above: dict[int, Trial] = {}
    for step in plan["steps"]:
        finished = [t for t in state.trials.values() if t.step == step["name"] and t.outcome == "finished"]
        trials = {trial.seed: trial for trial in finished}
        speed, reported = speeds.get(step["name"], {}), step["reported"]
        rows.append(
            {
                "step": step["name"],
                "changed": changed(step["changes"]),
                "parameters": speed.get("trainable_parameters"),
                "report_parameters": reported["parameters"],
                "n": len(trials),
                **_spread("mAP", [last_score(trial, "mAP") for trial in trials.values()]),
                "delta": _mean(
                    [last_score(t, "mAP") - last_score(above[s], "mAP") for s, t in trials.items() if s in above]
                ),
                **{name: _mean([last_score(trial, name) for trial in trials.values()]) for name in SCORES},
                "ms_per_batch": speed.get("ms_per_batch"),
                "images_per_s": speed.get("images_per_s"),
                "report_mAP": reported["mAP"],
                "report_ms": reported["ms_per_batch"],
                "train_minutes": _mean(
                    [sum(e["train_seconds"] for e in t.epochs.values()) / 60 for t in trials.values()]
                ),
                **_per_class(list(trials.values())),
            }
        )
        above = trials
    return rows


def last_score(trial: Trial, metric: str) -> float:
    """A metric of a trial's last epoch."""
    return trial.score(metric, trial.last_epoch)


def changed(changes: dict[str, Any]) -> str:
    """What a step changes, as `field=value`."""
    return ", ".join(f"{name}={show(value)}" for name, value in changes.items()) or "-"


def caption(plan: dict[str, Any], state: StudyState) -> str:
    """What the table's numbers stand on, in one line."""
    base, data = plan["space"]["base"], plan["dataset"]
    seeds = len({trial.seed for trial in state.trials.values()})
    iterations = base["steps_per_epoch"] * plan["epochs"]
    length = f"{iterations} steps of {base['batch_size']} images" if iterations else f"{plan['epochs']} passes"
    speed = next((r for r in state.records if r["event"] == "step_profiled"), None)
    clock = (
        f"; ms of one batch of {speed['batch_size']} through detection with fresh weights, on {speed['device']}"
        if speed
        else ""
    )
    clock += f"; left out: {', '.join(plan['left_out'])}" if plan.get("left_out") else ""
    return (
        f"{seeds} seed{'s' if seeds != 1 else ''} a step, mAP of the last epoch on {data['val_images']} images of {data['name']} "
        f"({data['fingerprint']}); {length} a training unless a step says otherwise{clock}"
    )


def as_latex(rows: list[Row], caption_text: str) -> str:
    """Rows as a LaTeX table (booktabs)."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numeric = "".join("l" if name in ("step", "changed") else "r" for name in names)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(caption_text)}}}",
        rf"\begin{{tabular}}{{{numeric}}}",
        r"\toprule",
    ]
    lines += [" & ".join(_tex(name) for name in names) + r" \\", r"\midrule"]
    lines += [" & ".join(_tex(show(row.get(name))) for name in names) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _tex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text


def _per_class(trials: list[Trial]) -> Row:
    names = dict.fromkeys(name for trial in trials for name in trial.epochs[trial.last_epoch]["per_class"])
    means = {f"AP {name}": _mean([last_score(trial, f"class:{name}") for trial in trials]) for name in names}
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def _spread(name: str, scores: list[float]) -> Row:
    counted = [score for score in scores if not math.isnan(score)]
    sd = statistics.stdev(counted) if len(counted) > 1 else math.nan
    return {f"{name}_mean": _mean(counted), f"{name}_sd": sd}


def _mean(scores: list[float]) -> float:
    counted = [score for score in scores if not math.isnan(score)]
    return statistics.fmean(counted) if counted else math.nan
