"""Charts of what varied: importance, the way from the base to the best, parallel coordinates, one plot a field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from results.evidence import Evidence
from results.field_views import rung_told
from results.importance import Effect, first_rung, is_numeric
from results.marks import BEST_COLOUR, COLOURS, GREY, Axis, Bars, Chart, Line, Mark, Parallel, Points
from results.state import Trial
from results.tables import show, varied_fields

MOST_SLICES, MOST_AXES = 12, 12  # fields that get a plot, or an axis, of their own
MOST_TRIALS = 1000  # in a plot; of more, evenly many from first to last


def field_charts(evidence: Evidence) -> list[Chart | None]:
    """Every plot of what varied; None for what a study has too little for."""
    return [importance(evidence), path(evidence), parallel(evidence), *slices(evidence)]


def importance(evidence: Evidence) -> Chart | None:
    """How much of the score's variance over the space each field makes, with the interval of a bootstrap over trials."""
    found = [effect for effect in evidence.importance.effects if not math.isnan(effect.share.main)]
    if not found:
        return None
    shares = [effect.share for effect in found]
    nothing = [math.nan] * len(found)
    marks = [
        Bars([e.field for e in found], [s.main for s in shares], [s.low for s in shares], [s.high for s in shares], "by itself", COLOURS[3]),
        Bars([e.field for e in found], [s.total for s in shares], nothing, nothing, "with what it shares with others", GREY),
    ]  # fmt: skip
    return Chart(
        "importance", "Share of the variance", marks, "share of the variance over the space", "",
        "Of the predicted score at the first rung, from all trials, survivors or not; whiskers: 95 % over trials, of a field by itself.", from_zero=True,
    )  # fmt: skip


def path(evidence: Evidence) -> Chart | None:
    """What each change on the way from the base to the best is predicted to bring."""
    steps = evidence.path
    if len(steps) < 2:
        return None
    names = ["base", *(" and ".join(step.changes) for step in steps[1:])]
    starts = [0.0, *(step.score for step in steps[:-1])]
    values = [steps[0].score, *(step.gain for step in steps[1:])]
    bars = Bars(names, values, [s.low for s in steps], [s.high for s in steps], "predicted", COLOURS[3], starts)
    return Chart(
        "path", "From the base to the best", [bars], f"predicted {evidence.state.metric}", "",
        "In the order that gains most at each step (Fawcett and Hoos), as the surrogate predicts for the first rung; whiskers: 95 % over trials.",
    )  # fmt: skip


def parallel(evidence: Evidence) -> Chart | None:
    """Parallel coordinates of the fields that varied, coloured by the score at the first rung."""
    rows = _shown(evidence)
    fields = varied_fields(evidence.state)
    order = [e.field for e in evidence.importance.effects]
    fields = sorted(fields, key=lambda name: order.index(name) if name in order else len(order))[:MOST_AXES]
    if len(rows) < 2 or not fields:
        return None
    axes = [_axis(name, [trial.config.get(name) for trial, _ in rows]) for name in fields]
    score = f"{evidence.state.metric} at {rung_told(evidence, 0)}"
    scores = [value for _, value in rows]
    return Chart(
        "parallel", "What was tried", [Parallel([*axes, Axis(score, scores)], scores, score)],
        reading=f"A line a trial, coloured by its {score}; the fields that went with the score most come first.",
    )  # fmt: skip


def _axis(name: str, values: Sequence[Any]) -> Axis:
    there = [value for value in values if value is not None]
    if there and is_numeric(there):
        if len(there) == len(values):
            return Axis(name, [float(value) for value in values])
        # Trials that do not have the field stand below all that have it, at a place of their own.
        low, high = min(there), max(there)
        absent = low - 0.15 * ((high - low) or 1.0)
        marks = [absent, low, (low + high) / 2, high]
        return Axis(
            name, [absent if value is None else float(value) for value in values], ["-", *map(show, marks[1:])], marks
        )
    options = sorted({"-" if value is None else show(value) for value in values})
    return Axis(name, [float(options.index("-" if value is None else show(value))) for value in values], options)


def _shown(evidence: Evidence) -> list[tuple[Trial, float]]:
    """Trials with their scores at the first rung, thinned out where a plot could not show them all."""
    rows = first_rung(evidence.state)
    return rows[:: math.ceil(len(rows) / MOST_TRIALS)] if rows else []


def slices(evidence: Evidence) -> list[Chart | None]:
    """Score at the first rung by each field's value, the fields that mattered most first; the line is what the surrogate
    predicts with everything else drawn from the space."""
    return [_slice(evidence, effect) for effect in evidence.importance.effects[:MOST_SLICES]]


def _slice(evidence: Evidence, effect: Effect) -> Chart:
    pairs = [(trial, score) for trial, score in _shown(evidence) if effect.field in trial.config]
    values = [trial.config[effect.field] for trial, _ in pairs]
    numeric = is_numeric(values)
    x = [float(value) for value in values] if numeric else [show(value) for value in values]
    texts = [f"trial {trial.number}: {show(score)}" for trial, score in pairs]
    marks: list[Mark] = [Points(x, [s for _, s in pairs], texts, effect.field, COLOURS[3])]
    if effect.share.curve:
        at = [value if numeric else show(value) for value, _ in effect.share.curve]
        marks.append(
            Line(at, [score for _, score in effect.share.curve], "predicted mean", BEST_COLOUR, 2.0, points=False)
        )
    wide = numeric and min(values) > 0 and max(values) / min(values) > 8
    told = f"{effect.direction}; goes with the scores as much by chance: {effect.chance:.1%} of shuffles"
    return Chart(
        f"slice_{effect.field}", effect.field, marks, effect.field,
        f"{evidence.state.metric} at {rung_told(evidence, 0)}", told, bool(wide), from_zero=True,
    )  # fmt: skip
