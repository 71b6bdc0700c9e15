"""Charts as SVG and PNG for papers."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from results.marks import Bars, Chart, Heat, Line, Mark, Parallel, Points

WIDTH, HEIGHT, ROW, DPI = 8.0, 4.5, 0.26, 130  # inches


def drawn(chart: Chart, kind: str) -> bytes:
    """A chart as the bytes of an svg or png file."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = max((len(mark.labels) for mark in chart.marks if isinstance(mark, Bars)), default=0)
    figure = Figure(figsize=(WIDTH, max(HEIGHT, rows * ROW + 1.2)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bars = [mark for mark in chart.marks if isinstance(mark, Bars)]
    for mark in chart.marks:
        _draw(axes, mark, bars)
    for x in chart.vertical_lines:
        axes.axvline(x, color="#cccccc", linewidth=0.8, zorder=1)
    axes.set_title(chart.title, fontsize=10)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    if chart.log_x:
        axes.set_xscale("log")
    if chart.x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.from_zero and not bars:
        axes.set_ylim(bottom=0)
    if not any(isinstance(mark, (Heat, Parallel)) for mark in chart.marks):
        axes.spines[["top", "right"]].set_visible(False)
    if any(getattr(mark, "legend", False) for mark in chart.marks) or len(bars) > 1:
        axes.legend(fontsize=8, frameon=False)
    out = io.BytesIO()
    with rc_context({"svg.hashsalt": chart.name, "svg.fonttype": "none"}):  # the same file for the same study
        figure.savefig(out, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def _draw(axes: Any, mark: Mark, bars: list[Bars]) -> None:
    if isinstance(mark, Line):
        axes.plot(
            mark.x, mark.y, color=mark.colour, linewidth=mark.width, linestyle="--" if mark.dashed else "-",
            marker="." if mark.points else None, markersize=4, drawstyle="steps-post" if mark.steps else "default",
            label=mark.name if mark.legend else None, zorder=3 if mark.width > 2 else 2,
        )  # fmt: skip
    elif isinstance(mark, Points):
        axes.scatter(
            mark.x, mark.y, color=mark.colour, s=mark.size**2 / 2, label=mark.name if mark.legend else None, zorder=4
        )
    elif isinstance(mark, Bars):
        _draw_bars(axes, mark, bars.index(mark), len(bars))
    elif isinstance(mark, Heat):
        values = np.asarray(mark.values, dtype=float)
        axes.imshow(np.log1p(values), cmap="cividis", aspect="auto")
        axes.set_xticks(range(len(mark.columns)), mark.columns, rotation=45, ha="right")
        axes.set_yticks(range(len(mark.rows)), mark.rows)
        middle = np.log1p(values).max() / 2
        for r, c in np.argwhere(values > 0):
            colour = "black" if np.log1p(values[r, c]) > middle else "white"
            axes.text(c, r, f"{values[r, c]:g}", ha="center", va="center", fontsize=8, color=colour)
    else:
        _draw_parallel(axes, mark)


def _draw_bars(axes: Any, mark: Bars, position: int, count: int) -> None:
    height = 0.8 / count
    at = np.arange(len(mark.labels)) + (position - (count - 1) / 2) * height
    starts = np.asarray(list(mark.starts) or [0.0] * len(mark.values))
    values = np.nan_to_num(np.asarray(mark.values, dtype=float))
    axes.barh(at, values, height, left=starts, color=mark.colour, label=mark.name if count > 1 else None)
    for y, start, value, low, high in zip(at, starts, values, mark.low, mark.high, strict=True):
        if not math.isnan(low) and not math.isnan(high):
            below, above = max(0.0, value - low), max(0.0, high - value)
            axes.errorbar(start + value, y, xerr=[[below], [above]], color="black", capsize=2, linewidth=1)
    axes.set_yticks(range(len(mark.labels)), mark.labels)
    axes.set_ylim(len(mark.labels) - 0.5, -0.5)


def _draw_parallel(axes: Any, mark: Parallel) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = Normalize(min(mark.colour_by), max(mark.colour_by) if len(set(mark.colour_by)) > 1 else None)
    columns = []
    for axis in mark.axes:
        values = np.asarray(axis.values, dtype=float)
        low, high = values.min(), values.max()
        columns.append((values - low) / (high - low) if high > low else np.full(len(values), 0.5))
    for position in np.argsort(mark.colour_by):
        axes.plot(
            range(len(columns)), [column[position] for column in columns], linewidth=1.1, alpha=0.8,
            color=colormaps["viridis"](scale(mark.colour_by[position])),
        )  # fmt: skip
    for x, axis in enumerate(mark.axes):
        axes.axvline(x, color="#cccccc", linewidth=0.8, zorder=1)
        ends = (
            (axis.options[0], axis.options[-1])
            if axis.options
            else (f"{min(axis.values):.3g}", f"{max(axis.values):.3g}")
        )
        axes.text(x, -0.03, ends[0], ha="center", va="top", fontsize=6)
        axes.text(x, 1.03, ends[1], ha="center", va="bottom", fontsize=6)
    axes.set_xticks(range(len(mark.axes)), [axis.name for axis in mark.axes], rotation=30, ha="right", fontsize=7)
    axes.tick_params(axis="x", pad=14)
    axes.set_yticks([])
    axes.figure.colorbar(ScalarMappable(scale, "viridis"), ax=axes, label=mark.colour_name)
