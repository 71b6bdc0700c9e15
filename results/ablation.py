"""The table of an ablation: a row a step, with what it changed, its score over seeds, its size and speed.

A step's score is that of its last epoch: each was trained to the end, and nothing was picked. `delta` is step minus
step above, by the two-way model of results/statistics.py, with its interval over seeds.
"""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

from results.rendering import latex_table
from results.state import StudyState, Trial
from results.statistics import ALPHA, POWER, Difference, bootstrap_mean, differences, unequal_spread
from results.tables import Row, show

DIFFERENCE_COLUMNS = (
    "delta", "delta_low", "delta_high", "p_holm", "effect_size", "detectable", "paired_low", "paired_high", "seed_correlation",
)  # fmt: skip
FIRST = "first"  # of a plan's `compare`: every step against the first, not against the one above
SCORES = ("AP50", "AP_small", "AP_medium", "AP_large")


def ablation_rows(plan: dict[str, Any], state: StudyState) -> list[Row]:
    """A row a step of the plan's chain, in its order; what is not there yet is NaN or None."""
    speeds = {record["step"]: record for record in state.records if record["event"] == "step_profiled"}
    found = {difference.step: difference for difference in step_differences(plan, state)}
    planned = planned_seeds(plan, state)
    rows: list[Row] = []
    for step in plan["steps"]:
        trials = finished_trials(state, step["name"])
        lacking = sorted(planned - {trial.seed for trial in trials})
        speed, reported = speeds.get(step["name"], {}), step["reported"]
        rows.append(
            {
                "step": step["name"],
                "changed": changed(step["changes"]),
                "parameters": speed.get("trainable_parameters"),
                "report_parameters": reported["parameters"],
                "n": len(trials),
                "seeds_missing": " ".join(map(str, lacking)),
                **_spread("mAP", [last_score(trial, "mAP") for trial in trials]),
                **_difference(found.get(step["name"])),
                **{name: _mean([last_score(trial, name) for trial in trials]) for name in SCORES},
                "ms_per_batch": speed.get("ms_per_batch"),
                "images_per_s": speed.get("images_per_s"),
                "report_mAP": reported["mAP"],
                "report_ms": reported["ms_per_batch"],
                "train_minutes": _mean([sum(e["train_seconds"] for e in t.epochs.values()) / 60 for t in trials]),
                **_per_class(trials),
            }
        )
    return rows


def planned_seeds(plan: dict[str, Any], state: StudyState) -> set[int]:
    """The seeds that every step was to be trained on, as the study's last session had it."""
    each = state.session.get("trials", plan["trials"]) // len(plan["steps"])
    return set(range(plan["seed"], plan["seed"] + each))


def finished_trials(state: StudyState, step: str) -> list[Trial]:
    """The trials of a step that trained to their end."""
    return [t for t in state.trials.values() if t.step == step and t.outcome == "finished"]


def step_differences(plan: dict[str, Any], state: StudyState) -> list[Difference]:
    """Each step against the one above it, or all against the first, in mAP of the last epoch."""
    names = [step["name"] for step in plan["steps"]]
    first = plan.get("compare") == FIRST
    pairs = [(step, names[0] if first else above) for above, step in itertools.pairwise(names)]
    return differences(step_scores(plan, state), pairs)


def step_scores(plan: dict[str, Any], state: StudyState) -> dict[str, dict[int, float]]:
    """mAP of the last epoch by step and seed."""
    names = [step["name"] for step in plan["steps"]]
    return {name: {t.seed: last_score(t, "mAP") for t in finished_trials(state, name)} for name in names}


def _difference(found: Difference | None) -> Row:
    """A step's difference as columns; NaN where there is none, or one seed allows no interval."""
    if found is None:
        return dict.fromkeys(DIFFERENCE_COLUMNS, math.nan)
    paired = found.paired
    values = (
        found.estimate, found.low, found.high, found.p_holm, found.effect_size, found.detectable,
        *((paired.low, paired.high, paired.correlation) if paired else (math.nan,) * 3),
    )  # fmt: skip
    return dict(zip(DIFFERENCE_COLUMNS, values, strict=True))


def last_score(trial: Trial, metric: str) -> float:
    """A metric of a trial's last epoch."""
    return trial.score(metric, trial.last_epoch)


def changed(changes: dict[str, Any]) -> str:
    """What a step changes, as `field=value`."""
    return ", ".join(f"{name}={show(value)}" for name, value in changes.items()) or "-"


def caption(plan: dict[str, Any], state: StudyState) -> str:
    """What the table's numbers stand on, in one line."""
    base, data = plan["space"]["base"], plan["dataset"]
    seeds = len(planned_seeds(plan, state))
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
        f"({data['fingerprint']}); {length} a training unless a step says otherwise{clock}. {legend(plan, state)}"
    )


def title(plan: dict[str, Any]) -> str:
    """How a plan's steps stand to one another."""
    if plan.get("compare") == FIRST:
        return f"steps, each against {plan['steps'][0]['name']}"
    return "steps, each on top of the one above"


def legend(plan: dict[str, Any], state: StudyState) -> str:
    """What the table's differences are, and what they could have shown."""
    found = step_differences(plan, state)
    against = plan["steps"][0]["name"] if plan.get("compare") == FIRST else "the step above"
    told = f"delta: step minus {against}"
    sure = [difference.detectable for difference in found if not math.isnan(difference.detectable)]
    if not sure:
        return f"{told}; one seed a step allows no interval: run it with --seeds 3"
    scores = step_scores(plan, state)
    lacking = sorted({seed for row in scores.values() for seed in planned_seeds(plan, state) - set(row)})
    uneven = unequal_spread(scores) < ALPHA
    return (
        f"{told}, with its 95 % interval over seeds, not over images (two-way model step + seed, residual pooled); p_holm: "
        f"corrected for {len(found)} differences (Holm); detectable: the smallest difference that {POWER:.0%} of such studies "
        f"would call real after Holm, here {max(sure):.3f}, so that a smaller one is not shown to be none"
        + (
            "; the steps spread unequally over their seeds (Bartlett, 5 %): where one spreads more than others the pooled interval is too "
            "narrow, and the paired t beside it holds"
            if uneven
            else ""
        )
        + (f"; missing seeds: {', '.join(map(str, lacking))}, in the rows that say so" if lacking else "")
    )


def as_latex(rows: list[Row], caption_text: str) -> str:
    """Rows as a LaTeX table (booktabs)."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[show(row.get(name)) for name in names] for row in rows]
    return latex_table(names, ("step", "changed"), cells, caption_text, "ablation")


def _per_class(trials: list[Trial]) -> Row:
    names = dict.fromkeys(name for trial in trials for name in trial.epochs[trial.last_epoch]["per_class"])
    means = {f"AP {name}": _mean([last_score(trial, f"class:{name}") for trial in trials]) for name in names}
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def _spread(name: str, scores: list[float]) -> Row:
    counted = [score for score in scores if not math.isnan(score)]
    sd = statistics.stdev(counted) if len(counted) > 1 else math.nan
    low, high = bootstrap_mean(counted, seed=0) or (math.nan, math.nan)  # none below eight seeds
    return {f"{name}_mean": _mean(counted), f"{name}_sd": sd, f"{name}_boot_low": low, f"{name}_boot_high": high}


def _mean(scores: list[float]) -> float:
    counted = [score for score in scores if not math.isnan(score)]
    return statistics.fmean(counted) if counted else math.nan
