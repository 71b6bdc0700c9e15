"""The tables that people read: ranking, steps, classes, sizes and cost, each with a caption that says what it rests on.

A view holds raw values (what CSV gets) and how each column is told (Markdown, LaTeX, terminal and page). Two sources of
variance, seeds and validation images: a column with an interval says in its heading which one it covers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from results.ablation import ablation_rows, caption, title
from results.evidence import Evidence
from results.field_views import field_views
from results.heading import amount, in_budget
from results.state import StudyState, Trial
from results.statistics import POWER, differences, mean_interval
from results.tables import MEASURED, Row, configurations, measured_score, show
from results.tables import differences as differs
from results.view import Tell, View, interval, number, teller

MOST_TOLD = 6  # fields that a row names
TOP = 8  # configurations of which everything is told
SIZES = ("AP_small", "AP_medium", "AP_large")


def views(evidence: Evidence) -> list[View]:
    """Every table that a study has."""
    made = [steps_view(evidence)] if "steps" in evidence.plan else [ranking_view(evidence), *field_views(evidence)]
    return [*made, classes_view(evidence), sizes_view(evidence), cost_view(evidence)]


def ranking_view(evidence: Evidence) -> View:
    """Configurations, best first, with intervals over fresh seeds and over images; who is not told apart from the best."""
    state, metric = evidence.state, evidence.state.metric
    mean = f"{metric}_mean"
    fresh = _fresh_scores(state)
    order = {effect.field: place for place, effect in enumerate(evidence.importance.effects)}
    rows = []
    for position, row in enumerate(configurations(state)[:TOP], 1):
        scores = list(fresh.get(row["config"], {}).values())
        seeds = mean_interval(scores)
        own = next((t.id for t in state.with_role("search") if t.config_hash == row["config"]), row["trial"])
        images = evidence.image_interval(own) if metric == "mAP" else (math.nan, math.nan)
        changes = differs(state, state.trials[row["trial"]])
        told = [
            f"{name}={show(changes[name])}" for name in sorted(changes, key=lambda name: order.get(name, len(order)))
        ]
        rows.append(
            {
                "rank": position,
                **{name: row[name] for name in ("config", "trial", "n", mean, f"{metric}_sd")},
                "fresh_seeds": len(scores),
                "seeds_low": seeds[0],
                "seeds_high": seeds[1],
                "images_low": images[0],
                "images_high": images[1],
                "best_rung": row["best_rung"],
                "optimism": row["optimism"],
                "not_told_apart": False,
                "detectable": math.nan,
                "differs": ", ".join(told) or "base",
                "differs_most": _shortened(told),
            }
        )
    _mark_not_told_apart(rows, fresh)
    columns: dict[str, Tell] = {
        "rank": lambda r: f"{r['rank']}{'=' if r['not_told_apart'] else ''}",
        "config": lambda r: r["config"],
        "n": lambda r: str(r["fresh_seeds"] if fresh else r["n"]),
        metric: lambda r: number(r[mean], *_narrower(r)),
    }
    if any(not math.isnan(row["seeds_low"]) for row in rows):
        columns["95 % over seeds"] = lambda r: interval(r["seeds_low"], r["seeds_high"])
    if any(not math.isnan(row["images_low"]) for row in rows):
        columns["95 % over images"] = lambda r: interval(r["images_low"], r["images_high"])
    if any(not math.isnan(row["optimism"]) for row in rows):
        columns["optimism"] = lambda r: number(r["optimism"], signed=True)
    columns |= {"epochs": lambda r: str(r["best_rung"]), "differs from the base in": lambda r: r["differs_most"]}
    return View(
        "ranking", "configurations, best first", rows, columns, _ranking_caption(evidence, rows, fresh), frozenset({0}),
        frozenset({"config", "differs from the base in"}),
    )  # fmt: skip


def _shortened(parts: list[str]) -> str:
    """The first few parts, which matter most, and how many more there are."""
    more = len(parts) - MOST_TOLD
    return ", ".join(parts[:MOST_TOLD]) + (f", {more} more" if more > 0 else "") or "base"


def _narrower(row: Row) -> tuple[float, float]:
    """The interval that a mean is rounded to: over seeds where there is one, else over images."""
    return (
        (row["images_low"], row["images_high"])
        if math.isnan(row["seeds_low"])
        else (row["seeds_low"], row["seeds_high"])
    )


def _fresh_scores(state: StudyState) -> dict[str, dict[int, float]]:
    """Scores by configuration and fresh seed, as configs.csv counts them: one that diverged is worth nothing."""
    scores: dict[str, dict[int, float]] = {}
    for trial in state.with_role("final"):
        score = measured_score(trial, state.metric)
        if trial.outcome in MEASURED and not math.isnan(score):
            scores.setdefault(trial.config_hash, {})[trial.seed] = score
    return scores


def _mark_not_told_apart(rows: list[Row], fresh: dict[str, dict[int, float]]) -> None:
    """Marks the rows whose difference from the first, over fresh seeds, could be chance."""
    rows = [row for row in rows if row["config"] in fresh]
    if not rows:
        return
    first = rows[0]["config"]
    found = {d.step: d for d in differences(fresh, [(r["config"], first) for r in rows[1:] if r["config"] in fresh])}
    for row in rows[1:]:
        difference = found.get(row["config"])
        row["not_told_apart"] = difference is not None and not difference.significant
        row["detectable"] = difference.detectable if difference is not None else math.nan


def _ranking_caption(evidence: Evidence, rows: list[Row], fresh: dict[str, dict[int, float]]) -> str:
    state = evidence.state
    told = [f"{state.metric} on {_stands_on(evidence)}"]
    if fresh:
        told.append(
            "n: fresh seeds, 0 where the score is the one that the configuration was picked by; optimism: the search's score minus "
            "their mean; =: not told apart from the first (two-way model, Holm, 5 %)"
        )
        sure = [row["detectable"] for row in rows if not math.isnan(row["detectable"])]
        if sure:
            told.append(f"{POWER:.0%} of such studies would tell a difference of {max(sure):.3f} from none")
    else:
        told.append("one seed each, the one that they were picked by, so that the first is flattered: --seeds-final 3")
    if any(not math.isnan(row["images_low"]) for row in rows):
        told.append(f"over images: {evidence.about_images()}, of the search's own training of each")
    return "; ".join(told)


def steps_view(evidence: Evidence) -> View:
    """An ablation's steps, with what each is worth over the one above."""
    rows = ablation_rows(evidence.plan, evidence.state)
    reported = any(row["report_mAP"] is not None for row in rows)
    columns: dict[str, Tell] = {
        "step": lambda r: r["step"],
        "changed": lambda r: r["changed"],
        "parameters": lambda r: f"{r['parameters']:,}" if r["parameters"] else "-",
        "n": lambda r: str(r["n"]) + (" (lacks " + r["seeds_missing"] + ")" if r["seeds_missing"] else ""),
        "mAP": lambda r: number(r["mAP_mean"], r["delta_low"], r["delta_high"]),
        "sd": lambda r: number(r["mAP_sd"]),
        "delta": lambda r: number(r["delta"], r["delta_low"], r["delta_high"], signed=True) + star(r["p_holm"]),
        "95 % over seeds": lambda r: interval(r["delta_low"], r["delta_high"], signed=True),
        "p (Holm)": lambda r: p_value(r["p_holm"]),
        "effect": lambda r: number(r["effect_size"]) if math.isnan(r["effect_size"]) else f"{r['effect_size']:+.1f}",
        "paired t, 95 % (correlation of seeds)": _paired,
        "AP50": lambda r: number(r["AP50"]),
        "ms/batch": lambda r: "-" if r["ms_per_batch"] is None else f"{r['ms_per_batch']:.0f}",
        "min": lambda r: "-" if math.isnan(r["train_minutes"]) else f"{r['train_minutes']:.1f}",
        **({"report": lambda r: show(r["report_mAP"])} if reported else {}),
    }
    best = _best(rows, "mAP_mean")
    legend = "effect: delta in standard deviations of the residual (Hedges); *: p <= 0.05, **: p <= 0.01, ***: p <= 0.001 after Holm"
    return View(
        "ablation", title(evidence.plan), rows, columns,
        f"{caption(evidence.plan, evidence.state)}. {legend}", best, frozenset({"step", "changed"}),
    )  # fmt: skip


def _paired(row: Row) -> str:
    """A step's paired t beside the model's interval, with what pairing by seed was worth."""
    told = interval(row["paired_low"], row["paired_high"], signed=True)
    return told if math.isnan(row["seed_correlation"]) else f"{told} ({row['seed_correlation']:+.2f})"


def p_value(p: float) -> str:
    """A p-value with three decimals."""
    return "-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def star(p: float) -> str:
    """The mark of a corrected p-value."""
    return "" if math.isnan(p) or p > 0.05 else "*" if p > 0.01 else "**" if p > 0.001 else "***"


def _best(rows: Sequence[Row], name: str) -> frozenset[int]:
    scored = [(row[name], -n) for n, row in enumerate(rows) if not math.isnan(row[name])]
    return frozenset({-max(scored)[1]}) if scored else frozenset()


def compared_trials(evidence: Evidence) -> dict[str, Trial]:
    """The trials that stand beside each other by class and size: base and best, or an ablation's steps (first seeds)."""
    state = evidence.state
    if "steps" in evidence.plan:
        firsts: dict[str, Trial] = {}
        for trial in state.with_role("ablation"):
            if trial.outcome == "finished":
                firsts.setdefault(trial.step, trial)
        return firsts
    best, base = evidence.winner, next(iter(state.trials.values()), None)
    told = {"base": base, "best": best}
    return {name: t for name, t in told.items() if t is not None and t.ranked_epoch(state.metric) is not None}


def classes_view(evidence: Evidence) -> View:
    """AP by class of base and best, the best's with its interval over images; of an ablation's steps, those of one seed."""
    trials = compared_trials(evidence)
    best = None if "steps" in evidence.plan else trials.get("best")
    found = evidence.matches(best.id) if best is not None else None
    spread: dict[str, tuple[float, float]] = {}
    counts: dict[str, int] = {}
    if best is not None and found is not None:
        for name, kind, image in zip(found.class_names, found.classes, evidence.class_intervals(best.id), strict=True):
            spread[name], counts[name] = (image.low, image.high), int(kind.boxes.sum())
    rows: list[Row] = []
    for name in evidence.plan["dataset"]["classes"]:
        row: Row = {"class": name, "boxes": counts.get(name)}
        for label, trial in trials.items():
            row[label] = trial.score(f"class:{name}", _epoch(evidence, trial))
        low, high = spread.get(name, (math.nan, math.nan))
        rows.append({**row, "images_low": low, "images_high": high})
    columns: dict[str, Tell] = {"class": lambda r: r["class"]}
    if counts:
        columns["boxes"] = lambda r: str(r["boxes"])
    columns |= {label: teller(label) for label in trials}
    if spread:
        columns["best, 95 % over images"] = lambda r: interval(r["images_low"], r["images_high"])
    which = "last epoch of one seed each" if "steps" in evidence.plan else "ranked epoch"
    told = f"AP at the {which} on {evidence.plan['dataset']['val_images']} images ({evidence.plan['dataset']['fingerprint']}); "
    told += ", ".join(f"{label}: trial {trial.id} after {amount(trial.last_epoch)}" for label, trial in trials.items())
    told += f"; {evidence.about_images()}" if spread else ""
    return View("classes", "AP by class", rows, columns, told, frozenset(), frozenset({"class"}))


def sizes_view(evidence: Evidence) -> View:
    """AP by size of what `compared_trials` names."""
    small, medium = evidence.plan["dataset"]["area_ranges_px"]
    rows: list[Row] = [
        {"what": label, "trial": trial.id, "epochs": trial.last_epoch}
        | {name: trial.score(name, _epoch(evidence, trial)) for name in ("mAP", *SIZES)}
        for label, trial in compared_trials(evidence).items()
    ]
    columns: dict[str, Tell] = {"": lambda r: r["what"], "epochs": lambda r: str(r["epochs"])}
    columns |= {name: teller(name) for name in ("mAP", *SIZES)}
    one = "of one seed a step; " if "steps" in evidence.plan else ""
    told = (
        f"{one}{_stands_on(evidence)}; small: a box of less than {small:g} x {small:g} pixels, medium: less than {medium:g} x {medium:g}, "
        "large: the rest"
    )
    return View("sizes", "AP by size", rows, columns, told, _best(rows, "mAP"), frozenset({""}))


def cost_view(evidence: Evidence) -> View:
    """What the best configurations cost to train, and what was measured of them."""
    state = evidence.state
    measured = [name for name in evidence.plan.get("objectives", []) if name != state.metric]
    rows: list[Row] = []
    ablated = "steps" in evidence.plan
    for row in configurations(state)[: None if ablated else TOP]:
        trials = [t for t in state.trials.values() if t.config_hash == row["config"] and t.epochs]
        trained: dict[str, list[float]] = {}  # seconds of its epochs by device
        peaks: dict[str, float] = {}  # GiB
        for record in (record for t in trials for record in t.epochs.values() if not record.get("taken_over")):
            device = record.get("device", "")
            trained.setdefault(device, []).append(record["seconds"])
            peaks[device] = max(peaks.get(device, 0.0), record.get("peak_gib", 0.0))
        if not trials:
            continue
        own = state.trials[row["trial"]]
        costs = {name: own.score(name, own.last_epoch) if own.epochs else math.nan for name in measured}
        for device, seconds in sorted(trained.items()) or [("", [])]:
            rows.append(
                {
                    "config": trials[0].step or row["config"],
                    state.metric: row[f"{state.metric}_mean"],
                    "device": device,
                    "seconds_per_epoch": statistics.median(seconds) if seconds else math.nan,
                    "epochs": len(seconds) if len(trained) > 1 else sum(len(t.epochs) for t in trials),
                    "minutes": sum(seconds) / 60,
                    "peak_gib": peaks.get(device, 0.0),
                    **costs,
                }
            )
    devices = sorted({row["device"] for row in rows} - {""})
    columns: dict[str, Tell] = {
        "config": lambda r: r["config"],
        state.metric: teller(state.metric),
        **({"device": lambda r: r["device"]} if len(devices) > 1 else {}),
        "s/epoch": lambda r: show(r["seconds_per_epoch"]),
        "epochs": lambda r: str(r["epochs"]),
        "minutes": lambda r: f"{r['minutes']:.1f}",
        # A study of before it was measured has none.
        **({"peak GiB": lambda r: f"{r['peak_gib']:.2f}"} if any(row["peak_gib"] for row in rows) else {}),
        **{name: teller(name) for name in measured},
    }
    told = f"{_stands_on(evidence)}; seconds per epoch: the median over its epochs; minutes: all its trials, inside training and evaluation"
    if "peak GiB" in columns:
        told += "; peak GiB: of a GPU's memory, or of the trial's process with the images that it maps"
    told += f"; on {devices[0]}" if len(devices) == 1 else "; a row a device" if devices else ""
    return View("cost", "what it cost", rows, columns, told, frozenset(), frozenset({"config"}))


def _stands_on(evidence: Evidence) -> str:
    """Data, budget and seeds of a study."""
    plan, state = evidence.plan, evidence.state
    data, seeds = plan["dataset"], len({trial.seed for trial in state.trials.values()})
    return (
        f"{data['val_images']} images of {data['name']} ({data['fingerprint']}); rungs {in_budget(plan, *state.levels)}; "
        f"{seeds} training seed{'s' * (seeds != 1)}"
    )


def _epoch(evidence: Evidence, trial: Trial) -> int:
    """The epoch that is told of a trial: the ranked one, of an ablation's step the last."""
    return (
        trial.last_epoch if "steps" in evidence.plan else trial.ranked_epoch(evidence.state.metric) or trial.last_epoch
    )
