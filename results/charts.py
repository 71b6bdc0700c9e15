"""What a study's plots show, apart from how they are drawn: marks on axes, made from the journal and from matches.

draw_plotly.py draws them into the report, draw_matplotlib.py as SVG and PNG for papers.
"""

from __future__ import annotations

import math

import numpy as np

from results.ablation import FIRST, ablation_rows
from results.confusion import confusion_of
from results.evidence import Evidence
from results.field_charts import field_charts
from results.field_views import rung_told
from results.marks import BEST_COLOUR, COLOURS, GREY, Bars, Chart, Heat, Line, Mark, Points
from results.matching import RECALL_THRESHOLDS
from results.pareto import objective_values, pareto_front
from results.view import View
from results.views import classes_view, compared_trials

MOST_LINES = 400  # learning curves drawn one by one; of more, those of the best


def charts(evidence: Evidence) -> list[Chart]:
    """Every plot that a study has something to show in, in the order of the report."""
    made = [learning_curves(evidence)]
    if "steps" in evidence.plan:
        made.append(waterfall(evidence))
    else:
        made += [best_so_far(evidence), *field_charts(evidence), front(evidence)]
    made += [class_bars(evidence), precision_recall(evidence), confusion(evidence)]
    return [chart for chart in made if chart is not None]


def learning_curves(evidence: Evidence) -> Chart | None:
    """Score by epoch of every trial, coloured by the highest rung it reached; where each was promoted."""
    state = evidence.state
    best = evidence.winner
    drawn = [t for t in state.trials.values() if any(not math.isnan(t.score(state.metric, e)) for e in t.epochs)]
    if not drawn:
        return None
    drawn = sorted(drawn, key=lambda t: (t.rung, -t.number))[-MOST_LINES:]
    marks: list[Mark] = []
    named: set[int] = set()
    for trial in drawn:
        epochs = sorted(trial.epochs)
        is_best = best is not None and trial.id == best.id
        rung = f"reached {rung_told(evidence, trial.rung)}" if trial.rung >= 0 else "reached no rung"
        marks.append(
            Line(
                epochs,
                [trial.score(state.metric, e) for e in epochs],
                f"trial {trial.number}, best"
                if is_best
                else rung
                if trial.rung not in named
                else f"trial {trial.number}",
                BEST_COLOUR if is_best else rung_colour(trial.rung),
                3.0 if is_best else 1.2,
                dashed=trial.number == 1,
                legend=is_best or trial.rung not in named,
            )
        )
        if not is_best:
            named.add(trial.rung)
    # Where the budget is in seconds each trial has rungs of its own, in epochs.
    decisions = [(state.trials[r["trial"]], r["rung"]) for r in state.records if r["event"] == "promoted"]
    promoted = [(trial, trial.levels[rung]) for trial, rung in decisions if trial.levels[rung] in trial.epochs]
    in_seconds = evidence.plan.get("budget_unit", "epochs") == "seconds"
    if promoted:
        marks.append(
            Points(
                [level for _, level in promoted],
                [trial.score(state.metric, level) for trial, level in promoted],
                [f"trial {trial.number} promoted at epoch {level}" for trial, level in promoted],
                "promoted",
                "#0072B2",
                6.0,
                True,
            )
        )
    return Chart(
        "curves", "Learning curves", marks, "epoch", state.metric, "The base is dashed" + ("." if in_seconds else "; vertical lines are rungs."),
        vertical_lines=() if in_seconds else state.levels, from_zero=True,
    )  # fmt: skip


def rung_colour(rung: int) -> str:
    """A colour by the index of the highest rung reached."""
    return GREY if rung < 0 else COLOURS[rung % 4]


def best_so_far(evidence: Evidence) -> Chart | None:
    """The best score of the search after so much compute: busy seconds of all slots together."""
    state = evidence.state
    spent, best = 0.0, -math.inf
    x, y, texts = [], [], []
    for record in state.records:
        if record["event"] != "epoch" or state.trials[record["trial"]].role != "search":
            continue
        spent += 0.0 if record.get("taken_over") else record["seconds"]
        score = state.trials[record["trial"]].score(state.metric, record["epoch"])
        if score > best:
            best = score
            x.append(spent / 60)
            y.append(score)
            texts.append(f"trial {state.trials[record['trial']].number}, epoch {record['epoch']}")
    if not x:
        return None
    line = Line([*x, spent / 60], [*y, y[-1]], "best so far", COLOURS[3], 2.4, steps=True, points=False)
    return Chart(
        "best_so_far", "Best so far against compute", [line, Points(x, y, texts, "a new best", BEST_COLOUR)],
        "busy minutes of all slots", state.metric, "A flat end says that more of the same search buys little.",
        from_zero=True,
    )  # fmt: skip


def waterfall(evidence: Evidence) -> Chart | None:
    """What each step added to the mean above it, or, of steps that are compared with the first, to the first's."""
    rows = [row for row in ablation_rows(evidence.plan, evidence.state) if not math.isnan(row["mAP_mean"])]
    if not rows:
        return None
    from_first = evidence.plan.get("compare") == FIRST
    starts, values = [0.0], [rows[0]["mAP_mean"]]
    at = rows[0]["mAP_mean"]
    for row in rows[1:]:
        gap = 0.0 if math.isnan(row["delta"]) else row["delta"]
        starts.append(at)
        values.append(gap)
        at += 0.0 if from_first else gap
    low, high = ([row[end] for row in rows] for end in ("delta_low", "delta_high"))
    bars = Bars([row["step"] for row in rows], values, low, high, "mAP", COLOURS[3], starts)
    where = (
        f"Each bar starts where {rows[0]['step']} ends" if from_first else "Each bar starts where the one above ends"
    )
    return Chart(
        "waterfall", "What each step added", [bars], "mAP", "", f"{where}; whiskers: 95 % of the difference over seeds."
    )


def front(evidence: Evidence) -> Chart | None:
    """Two objectives of all finished trials, the Pareto front in colour."""
    names = evidence.plan.get("objectives", [])
    state = evidence.state
    if len(names) != 2:
        return None
    on_front = {row["trial"] for row in pareto_front(state, names)}
    values = {t.id: objective_values(state, t, names) for t in state.with_role("search") if t.outcome == "finished"}
    marks = []
    for name, colour, ids in (
        ("dominated", GREY, [t for t in values if t not in on_front]), ("on the front", BEST_COLOUR, [t for t in values if t in on_front]),
    ):  # fmt: skip
        texts = [f"trial {state.trials[t].number}" for t in ids]
        marks.append(Points([values[t][1] for t in ids], [values[t][0] for t in ids], texts, name, colour, 9.0, True))
    return Chart("pareto", "Pareto front", marks, names[1], names[0], "Of those on the front none is better in both.")


def class_bars(evidence: Evidence) -> Chart | None:
    """AP by class of the best, whiskers over images where there are matches, and of the base."""
    view: View = classes_view(evidence)
    labels = [label for label in ("base", "best") if view.rows and label in view.rows[0]]
    if not labels:
        return None
    names = [row["class"] for row in view.rows]
    marks = []
    for label in labels:
        sure = label == "best"
        low, high = ([row[end] if sure else math.nan for row in view.rows] for end in ("images_low", "images_high"))
        marks.append(Bars(names, [row[label] for row in view.rows], low, high, label, COLOURS[3] if sure else GREY))
    return Chart("classes", "AP by class", marks, "AP", "", "Whiskers: 95 % over validation images, where the study keeps them.", from_zero=True)  # fmt: skip


def precision_recall(evidence: Evidence) -> Chart | None:
    """Precision by recall at IoU 0.5 of the best, class by class."""
    best = compared_trials(evidence).get("best")
    found = evidence.matches(best.id) if best is not None else None
    if found is None:
        return None
    marks: list[Mark] = []
    for k, (name, kind) in enumerate(zip(found.class_names, found.classes, strict=True)):
        boxes = int(kind.boxes.sum())
        if not boxes:
            continue
        true = np.cumsum(kind.matched[0][~kind.ignored[0]])
        precision = true / np.arange(1, len(true) + 1)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        at = np.searchsorted(true / boxes, RECALL_THRESHOLDS)
        y = envelope[np.minimum(at, len(envelope) - 1)]
        told, colour, again = f"{name} ({boxes}): {y.mean():.3f}", COLOURS[k % len(COLOURS)], k >= len(COLOURS)
        marks.append(
            Line(RECALL_THRESHOLDS.tolist(), y.tolist(), told, colour, 2.0, dashed=again, legend=True, points=False)
        )
    return Chart(
        "precision_recall", "Precision and recall of the best", marks, "recall", "precision", "At IoU 0.5, by class (boxes): AP50.", from_zero=True
    )  # fmt: skip


def confusion(evidence: Evidence) -> Chart | None:
    """What the best takes for what, at the score of best F1 and IoU 0.5, whatever the class."""
    best = compared_trials(evidence).get("best")
    if best is None or evidence.ground_truth is None:
        return None
    found = confusion_of(evidence, best)
    if found is None:
        return None
    names = [*evidence.plan["dataset"]["classes"], "nothing"]
    return Chart(
        "confusion", "What the best takes for what", [Heat(names, names, found.tolist())], "detected as", "is",
        "Boxes at IoU 0.5 and the score of best F1 of each class; right column: missed, bottom row: false alarms.",
    )  # fmt: skip
