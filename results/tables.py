"""The tables of a study: a row a trial (leaderboard), a row a configuration (configs), one summary."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from results.state import STATES, StudyState, Trial

Row = dict[str, Any]
ROLES = ("search", "ablation", "final", "polish", "plain", "audit")
LONGER = ("polish", "plain")  # roles with a length of their own
MEASURED = ("finished", "diverged")  # outcomes of a fresh seed that tell something of its configuration


def differences(state: StudyState, trial: Trial) -> dict[str, Any]:
    """The searched fields in which a trial differs from the base (trial 1)."""
    base = next(iter(state.trials.values())).config
    return {name: value for name, value in trial.varied.items() if value != base.get(name)}


def varied_fields(state: StudyState) -> list[str]:
    """The searched fields that take more than one value over the study's trials, in the space's order."""
    names = dict.fromkeys(name for trial in state.trials.values() for name in trial.varied)
    return [name for name in names if len({repr(t.config.get(name)) for t in state.trials.values()}) > 1]


def ranking_key(trial: Trial, metric: str) -> tuple[float, float, int]:
    """Sorts best first: highest rung, then highest score, then first created."""
    score = trial.ranked_score(metric)
    return (-trial.rung, math.inf if math.isnan(score) else -score, trial.number)


def leaderboard(state: StudyState) -> list[Row]:
    """A row a trial, best first within its role; scores are those of the epoch that ranks, by the study's metric."""
    fields = varied_fields(state)
    rows = []
    for trial in sorted(state.trials.values(), key=lambda t: (ROLES.index(t.role), ranking_key(t, state.metric))):
        best = trial.ranked_epoch(state.metric)
        scores = trial.epochs[best]["metrics"] if best else {}
        row: Row = {
            "trial": trial.id, "number": trial.number, "config": trial.config_hash, "role": trial.role,
            "state": state.final_state(trial), "seed": trial.seed,
            "rung": rung_of(state, trial), "epochs": trial.last_epoch,
            "best_epoch": best or 0,
        }  # fmt: skip
        if trial.step:
            row["step"] = trial.step
        for name in ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"):
            row[name] = scores.get(name, math.nan)
        if state.metric not in row:
            row[state.metric] = trial.ranked_score(state.metric)
        peaks = [epoch["peak_gib"] for epoch in trial.epochs.values() if "peak_gib" in epoch]
        row["peak_gib"] = max(peaks, default=math.nan)
        row["seconds"] = trial.seconds
        rows.append({**row, **{name: trial.config.get(name) for name in fields}})
    return rows


def rung_of(state: StudyState, trial: Trial) -> int:
    """The budget that a trial has reached; 0 below the first rung."""
    levels = state.levels if trial.role not in LONGER else trial.levels
    return levels[trial.rung] if trial.rung >= 0 else 0


def measured_score(trial: Trial, metric: str) -> float:
    """What a trial's configuration comes to on its seed: a fresh seed that diverged is worth nothing, not its best before."""
    return 0.0 if trial.role == "final" and trial.outcome == "diverged" else trial.ranked_score(metric)


def configurations(state: StudyState) -> list[Row]:
    """A row a configuration, best first: this table ranks, those measured on fresh seeds before all others.

    n counts trials of the configuration on fresh seeds that came to their end (role final), else those of the search;
    optimism is the search's score minus the mean on fresh seeds. The winner's longer training stands above it where it scored
    more, and else below.
    """
    rows = ranked_configurations(state)
    for polish in state.with_role("polish"):
        row = _polish_row(state, polish)
        below = [n for n, other in enumerate(rows) if other["config"] == state.trials[polish.of].config_hash]
        if below and not math.isnan(row[f"{state.metric}_mean"]):
            rows.insert(below[0] + (not helped(state, polish)), row)
    return rows


def helped(state: StudyState, polish: Trial) -> bool:
    """Whether a longer training scored more than the same configuration and seed at the study's length."""
    return polish.ranked_score(state.metric) > state.trials[polish.of].ranked_score(state.metric)


def _polish_row(state: StudyState, trial: Trial) -> Row:
    score, epoch = trial.ranked_score(state.metric), trial.ranked_epoch(state.metric)
    row: Row = {
        "config": trial.config_hash, "trial": trial.id, "n": 0 if math.isnan(score) else 1, f"{state.metric}_mean": score,
        f"{state.metric}_sd": math.nan, "best_rung": trial.last_epoch, "optimism": math.nan,
    }  # fmt: skip
    if state.metric != "mAP":
        row |= {"mAP_mean": trial.score("mAP", epoch) if epoch else math.nan, "mAP_sd": math.nan}
    return {**row, **{name: trial.config.get(name) for name in varied_fields(state)}}


def ranked_configurations(state: StudyState) -> list[Row]:
    """The rows of `configurations` that were trained to the study's own length."""
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in state.trials.values():
        if trial.role in ("search", "final", "ablation"):
            groups[trial.config_hash].append(trial)
    fields = varied_fields(state)
    rows = []
    for config_hash, trials in groups.items():
        final = [t for t in trials if t.role == "final" and t.outcome in MEASURED]
        counted = final or [t for t in trials if t.role != "final"]
        scored = [s for t in counted if not math.isnan(s := measured_score(t, state.metric))]
        found = [s for t in trials if t.role == "search" and not math.isnan(s := t.ranked_score(state.metric))]
        mean = statistics.fmean(scored) if scored else math.nan
        best_rung = max(t.rung for t in trials)
        row: Row = {
            "config": config_hash,
            "trial": min(trials, key=lambda t: ranking_key(t, state.metric)).id,
            "n": len(scored),
            f"{state.metric}_mean": mean,
            f"{state.metric}_sd": statistics.stdev(scored) if len(scored) > 1 else math.nan,
            "best_rung": state.levels[best_rung] if best_rung >= 0 else 0,
            "optimism": found[0] - mean if final and found and scored else math.nan,
        }
        if state.metric != "mAP":  # the table ranks by the study's metric and tells mAP all the same
            maps = [t.score("mAP", epoch) for t in counted if (epoch := t.ranked_epoch(state.metric))]
            row["mAP_mean"] = statistics.fmean(maps) if maps else math.nan
            row["mAP_sd"] = statistics.stdev(maps) if len(maps) > 1 else math.nan
        rows.append({**row, **{name: trials[0].config.get(name) for name in fields}})
    fresh = {trial.config_hash for trial in state.with_role("final") if trial.outcome in MEASURED}
    return sorted(
        rows, key=lambda r: (r["config"] not in fresh, -r["best_rung"], _last_if_nan(r[f"{state.metric}_mean"]))
    )


def winner(state: StudyState) -> Trial | None:
    """The search's own trial of the best configuration at the study's length; of an ablation the trial that scored most."""
    rows = ranked_configurations(state)
    if not rows or math.isnan(rows[0][f"{state.metric}_mean"]):
        return state.best_trial()
    searched = [t for t in state.with_role("search") if t.config_hash == rows[0]["config"]]
    return searched[0] if searched else state.trials[rows[0]["trial"]]


def base_of(state: StudyState) -> Trial | None:
    """The space's base: trial 1, or where a study was made longer its training on the longer schedule."""
    base = next(iter(state.with_role("search")), None)
    for trial in state.with_role("search"):
        if base is not None and trial.of == base.id and trial.last_epoch:
            base = trial
    return base


def delivered(state: StudyState) -> Trial | None:
    """The trial whose weights are the study's best.pt: the winner, or its longer training where that scored more."""
    best = winner(state)
    for polish in state.with_role("polish"):
        if best is not None and state.trials[polish.of].config_hash == best.config_hash and helped(state, polish):
            return polish
    return best


def _last_if_nan(score: float) -> float:
    return math.inf if math.isnan(score) else -score


def sessions(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The journal parted at each start or resume of the study; a driver that takes the lease ends the session before its own."""
    parts: list[list[dict[str, Any]]] = []
    running: list[dict[str, Any]] | None = None
    for record in records:
        if record["event"] == "lease_taken":
            running = None
        elif record["event"] == "session_started":
            running = []
            parts.append(running)
        if running is not None:
            running.append(record)
    return parts


def wall_seconds(records: Sequence[dict[str, Any]]) -> float:
    """From start to last sign of life, summed over the study's sessions."""
    return float(sum(part[-1]["time"] - part[0]["started"] for part in sessions(records)))


def train_share(records: Sequence[dict[str, Any]]) -> float:
    """Seconds inside Trainer.step / (slots x time from the start of the first epoch to the end of the last).

    A lone leg that was given the idle slots' cores as threads occupies those slots; each session counts for itself.
    """
    busy = available = 0.0
    for part in sessions(records):
        epochs = [record for record in part if record["event"] == "epoch" and not record.get("absorbed")]
        if not epochs:
            continue
        slots, threads = part[0]["slots"], part[0]["threads"]
        busy += sum(record["seconds"] * record["threads"] / threads for record in epochs)
        start = min(record["time"] - record["seconds"] for record in epochs)
        available += slots * (max(record["time"] for record in epochs) - start)
    return busy / available if available else math.nan


def summary(plan: dict[str, Any], state: StudyState) -> Row:
    """The study in one object (summary.json); trials, finished, pruned, failed and best count the search alone."""
    searched = [trial for trial in state.trials.values() if trial.role == "search"]
    ablated = [trial for trial in state.trials.values() if trial.role == "ablation"]
    share = train_share(state.records)
    tests = _tests(state)
    return {
        "study": plan["name"],
        "metric": state.metric,
        "trials": len(searched),
        **_states(state, searched),
        "best": told_best(state.best_trial("search"), state.metric),
        "base": _base_scores(searched, state.metric),
        **({"test": tests} if tests else {}),
        **_longer_rows(state),
        "cost": _cost(state),
        **({"ablation": {"trials": len(ablated), **_states(state, ablated)}} if ablated else {}),
        "epochs": sum(len(trial.epochs) for trial in searched or ablated),
        "wall_seconds": round(wall_seconds(state.records), 1),
        "train_share": None if math.isnan(share) else round(share, 4),
        "ended": state.ended,
        "dataset": plan["dataset"],
        "versions": plan["versions"],
    }


def _tests(state: StudyState) -> dict[str, dict[str, float]]:
    """Held-out scores by what was scored: means over the fresh seeds where base and best were trained on several."""
    rows: dict[str, list[tuple[bool, dict[str, float]]]] = {}
    for record in state.records:
        if record["event"] == "test_scored":
            fresh = state.trials[record["trial"]].role == "final"
            rows.setdefault(record["which"], []).append((fresh, record["metrics"]))
    found = {}
    for which, scored in rows.items():
        counted = [metrics for fresh, metrics in scored if fresh] or [scored[-1][1]]
        found[which] = {name: statistics.fmean(m[name] for m in counted) for name in counted[0]}
    return found


def _longer_rows(state: StudyState) -> dict[str, list[Row]]:
    """What was trained longer, by role: its length and score beside those of the trial that it repeats."""
    tests, best = held_out_scores(state), delivered(state)
    found: dict[str, list[Row]] = {}
    for role in LONGER:
        for trial in state.with_role(role):
            score, source = trial.ranked_score(state.metric), state.trials[trial.of]
            if not math.isnan(score):
                row = {"trial": trial.id, "epochs": trial.last_epoch, "score": score, "of": source.id,
                       "of_epochs": source.last_epoch, "of_score": source.ranked_score(state.metric),
                       "test": tests.get(trial.id, {}).get(state.metric), "seconds": round(trial.seconds, 1),
                       "delivered": trial is best}  # fmt: skip
                found.setdefault(role, []).append(row)
    return found


def _cost(state: StudyState) -> Row:
    """What a study took to find its winner: without the training that it is compared with, and without audits."""
    own = [record for record in epochs_to_winner(state) if not record.get("taken_over")]
    return {"epochs": len(own), "worker_minutes": round(sum(map(worker_seconds, own)) / 60, 2)}


def epochs_to_winner(state: StudyState) -> list[dict[str, Any]]:
    """The epoch records of all trials but plain trainings and audits, which only judge what was found."""
    return [r for t in state.trials.values() if t.role not in ("plain", "audit") for r in t.epochs.values()]


def worker_seconds(record: dict[str, Any]) -> float:
    """What an epoch keeps busy: its seconds times its threads."""
    return float(record["seconds"] * record.get("threads", 1))


def held_out_scores(state: StudyState) -> dict[str, dict[str, float]]:
    """The held-out scores by trial."""
    return {r["trial"]: r["metrics"] for r in state.records if r["event"] == "test_scored"}


def told_best(best: Trial | None, metric: str) -> Row | None:
    """A trial with its scores at the epoch that ranks; None without any."""
    epoch = best.ranked_epoch(metric) if best else None
    if best is None or epoch is None:
        return None
    scores = best.epochs[epoch]["metrics"]
    named = {"trial": best.id, "number": best.number, "config": best.config_hash, "epoch": epoch}
    return {**named, metric: best.ranked_score(metric), "mAP": scores["mAP"], "AP50": scores["AP50"]}


def _states(state: StudyState, trials: list[Trial]) -> Row:
    found = [state.final_state(trial) for trial in trials]
    return {name: found.count(name) for name in STATES}


def _base_scores(searched: list[Trial], metric: str) -> Row | None:
    base = next((trial for trial in searched if trial.number == 1), None)
    epoch = base.ranked_epoch(metric) if base else None
    if base is None or epoch is None:
        return None
    scores = base.epochs[epoch]["metrics"]
    own = {metric: base.ranked_score(metric), "mAP": scores["mAP"], "AP50": scores["AP50"]}
    return {"trial": base.id, "epochs": base.last_epoch, **own}


def as_csv(rows: list[Row]) -> str:
    """Rows as CSV; empty cells for NaN and None."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=_columns(rows), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return out.getvalue()


def as_markdown(rows: list[Row]) -> str:
    """Rows as a Markdown table, numbers at three significant decimals."""
    names = _columns(rows)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(show(row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value


def show(value: Any) -> str:
    """A cell for people: scores with three decimals, other floats with four digits, "-" for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if 0.001 <= abs(value) < 100 else f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return "(" + " ".join(show(item) for item in value) + ")"
    return str(value)
