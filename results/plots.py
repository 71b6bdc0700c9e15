"""Pictures of a study: learning curves by rung."""

from __future__ import annotations

import io
import math
from pathlib import Path

from results.state import StudyState

# Okabe and Ito's colour-blind-safe colours, one per rung reached.
RUNG_COLOURS = ("#999999", "#56B4E9", "#E69F00", "#009E73", "#0072B2", "#D55E00", "#CC79A7")


def learning_curves_png(state: StudyState, title: str) -> bytes:
    """Score by epoch of every trial, coloured by the highest rung it reached; base dashed, best drawn thick."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    best = state.best_trial()
    for trial in state.trials.values():
        epochs = sorted(trial.epochs)
        scores = [trial.score(state.metric, epoch) for epoch in epochs]
        if not epochs or all(math.isnan(score) for score in scores):
            continue
        is_best = best is not None and trial.id == best.id
        colour = RUNG_COLOURS[(trial.rung + 1) % len(RUNG_COLOURS)]
        axes.plot(
            epochs, scores, color=colour, linewidth=2.6 if is_best else 1.2, marker=".", markersize=4,
            linestyle="--" if trial.number == 1 else "-", zorder=3 if is_best else 2,
        )  # fmt: skip
        if is_best:
            axes.annotate(
                f"best: trial {trial.number}", (epochs[-1], scores[-1]), xytext=(4, 0), textcoords="offset points"
            )
    for level in state.levels:
        axes.axvline(level, color="#cccccc", linewidth=0.8, zorder=1)
    handles = [
        Line2D(
            [],
            [],
            color=RUNG_COLOURS[(k + 1) % len(RUNG_COLOURS)],
            label=f"reached {level} epochs ({len(state.arrivals[k])})",
        )
        for k, level in enumerate(state.levels)
    ]
    handles.append(Line2D([], [], color="#555555", linestyle="--", label="base"))
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="lower right")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(state.metric)
    axes.set_title(title, fontsize=10)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def write_curves(state: StudyState, title: str, path: Path) -> bytes:
    """Writes the learning curves and returns the PNG."""
    png = learning_curves_png(state, title)
    path.write_bytes(png)
    return png
