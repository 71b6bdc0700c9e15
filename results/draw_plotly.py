"""Charts as plotly figures: plain JSON objects, drawn in the reader's browser by the library that the page carries."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from results.marks import Axis, Bars, Chart, Heat, Line, Mark, Parallel, Points

ROW_PX, LEAST_PX, MOST_PX = 26, 360, 900  # a bar chart grows with its bars
NAMES_PX = 90  # of the axes' slanted names above parallel coordinates
LEGEND_PX = 80  # of a legend under the axis' title


def plotly_library() -> str:
    """The JavaScript that draws, as the installed package carries it."""
    from importlib.resources import files

    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def figure(chart: Chart) -> str:
    """A chart as plotly's JSON: data, layout; colours of text and grid are set by the page, dark or light."""
    data = [trace for mark in chart.marks for trace in _traces(mark)]
    bars = [mark for mark in chart.marks if isinstance(mark, Bars)]
    from_the_top = bool(bars) or any(isinstance(mark, Heat) for mark in chart.marks)
    parallel = any(isinstance(mark, Parallel) for mark in chart.marks)
    rows = max((len(mark.labels) for mark in bars), default=0) * max(1, len(bars))
    height = min(MOST_PX, max(LEAST_PX, ROW_PX * rows + 90))
    layout: dict[str, Any] = {
        "margin": {"l": 60, "r": 20, "t": NAMES_PX if parallel else 10, "b": 50},
         "height": height,
        "autosize": True,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#8888", "activecolor": "#888"},
        "xaxis": {**_axis(chart.x), **({"type": "log"} if chart.log_x else {})},
        "yaxis": {**_axis(chart.y), **({"autorange": "reversed"} if from_the_top else {})},
        "barmode": "group",
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": -LEGEND_PX / height},
        "showlegend": any(getattr(mark, "legend", False) for mark in chart.marks) or len(bars) > 1,
        "shapes": [
            {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 1, "color": "#9999"}}
            for x in chart.vertical_lines
        ],
    }  # fmt: skip
    if chart.from_zero:
        layout["xaxis" if bars else "yaxis"]["rangemode"] = "tozero"
    return json.dumps({"data": data, "layout": layout}, allow_nan=False)


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 14}, "automargin": True, "exponentformat": "none"}


def _traces(mark: Mark) -> list[dict[str, Any]]:
    if isinstance(mark, Line):
        line = {
            "color": mark.colour,
            "width": mark.width,
            "dash": "dash" if mark.dashed else "solid",
            "shape": "hv" if mark.steps else "linear",
        }
        mode = "lines+markers" if mark.points else "lines"
        return [{"type": "scatter", "mode": mode, "x": list(mark.x), "y": _plain(mark.y), "name": mark.name, "line": line,
                 "marker": {"size": 4}, "showlegend": mark.legend}]  # fmt: skip
    if isinstance(mark, Points):
        return [{"type": "scatter", "mode": "markers", "x": list(mark.x), "y": _plain(mark.y), "text": list(mark.texts),
                 "name": mark.name, "marker": {"color": mark.colour, "size": mark.size}, "showlegend": mark.legend}]  # fmt: skip
    if isinstance(mark, Bars):
        return [_bars(mark)]
    if isinstance(mark, Heat):
        texts = [[f"{value:g}" if value else "" for value in row] for row in mark.values]
        shade = [[math.log1p(value) for value in row] for row in mark.values]
        return [{"type": "heatmap", "x": list(mark.columns), "y": list(mark.rows), "z": shade, "text": texts, "texttemplate": "%{text}",
                 "colorscale": "Cividis", "showscale": False, "hovertemplate": "is %{y}, detected as %{x}: %{text}<extra></extra>"}]  # fmt: skip
    assert isinstance(mark, Parallel)
    colours = _plain(mark.colour_by)
    line = {
        "color": colours,
        "colorscale": "Viridis",
        "showscale": True,
        "colorbar": {"title": {"text": mark.colour_name}},
    }
    return [
        {"type": "parcoords", "line": line, "dimensions": [_dimension(axis) for axis in mark.axes], "labelangle": -20}
    ]


def _bars(mark: Bars) -> dict[str, Any]:
    starts = list(mark.starts) or [0.0] * len(mark.values)
    ends = [start + value for start, value in zip(starts, mark.values, strict=True)]
    trace: dict[str, Any] = {
        "type": "bar", "orientation": "h", "y": list(mark.labels), "x": _plain(mark.values), "base": starts, "name": mark.name,
        "marker": {"color": mark.colour}, "customdata": _plain(ends), "hovertemplate": "%{y}: %{customdata:.3f}<extra></extra>",
    }  # fmt: skip
    if any(not math.isnan(value) for value in (*mark.low, *mark.high)):
        columns = list(zip(mark.values, mark.low, mark.high, strict=True))
        trace["error_x"] = {
            "type": "data", "symmetric": False, "color": "#808080", "thickness": 1.5, "array": [_gap(high - value) for value, _, high in columns],
            "arrayminus": [_gap(value - low) for value, low, _ in columns],
        }  # fmt: skip
    return trace


def _gap(value: float) -> float:
    return 0.0 if math.isnan(value) else max(0.0, value)


def _dimension(axis: Axis) -> dict[str, Any]:
    told: dict[str, Any] = {"label": axis.name, "values": _plain(axis.values)}
    if axis.options:
        told |= {"tickvals": list(axis.places or range(len(axis.options))), "ticktext": list(axis.options)}
    return told


def _plain(values: Sequence[float]) -> list[float | None]:
    """JSON knows no NaN."""
    return [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
