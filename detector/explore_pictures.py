"""Pictures of a dataset's splits: classes, boxes per image, sizes, shapes and places, as PNGs."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from detector.data.dataset import Split
from detector.data.shift import box_measures, kept_labels
from detector.drawing import BOX_COLOURS

TITLES = {
    "class_counts": "Classes",
    "boxes_per_image": "Boxes per image",
    "sizes": "Box sizes",
    "aspect_ratios": "Box shapes",
    "centres": "Where boxes lie",
}
COLOURS = BOX_COLOURS[1:]  # of the splits, in turn


def pictures(splits: list[Split]) -> dict[str, bytes]:
    """The pictures by name."""
    names = [split.name for split in splits]
    measured = [box_measures(split) for split in splits]
    per_image = [np.array([int((~crowd).sum()) for crowd in split.crowd], dtype=float) for split in splits]
    width = 3.6 * len(splits)
    return {
        "class_counts": picture(lambda figure: draw_classes(figure, splits)),
        "boxes_per_image": picture(lambda figure: draw_counts(figure, names, per_image, "boxes per image")),
        "sizes": picture(lambda figure: draw_sizes(figure, names, [rows[:, :2] for rows in measured]), width),
        "aspect_ratios": picture(
            lambda figure: draw_ratios(figure, names, [rows[:, 3] for rows in measured], "height / width")
        ),
        "centres": picture(lambda figure: draw_centres(figure, names, [rows[:, 4:6] for rows in measured]), width),
    }


def draw_classes(figure: Any, splits: list[Split]) -> None:
    """Each split's share of boxes by class, side by side."""
    axes = figure.add_subplot()
    total = len(splits)
    for n, split in enumerate(splits):
        labels = kept_labels(split)
        share = np.bincount(labels, minlength=len(split.class_names)) / max(1, len(labels))
        place = np.arange(len(share)) + (n - (total - 1) / 2) * 0.8 / total
        axes.bar(place, share, 0.8 / total, color=COLOURS[n], label=f"{split.name} ({len(labels)} boxes)")
    axes.set_xticks(range(len(splits[0].class_names)), splits[0].class_names, rotation=30, ha="right")
    axes.set_ylabel("share of boxes")
    axes.legend(frameon=False)


def draw_counts(figure: Any, names: list[str], values: list[np.ndarray], label: str) -> None:
    """Densities of whole numbers: a bin a number, or a few; anything else would leave empty bins between them."""
    every = np.concatenate(values)
    low, high = float(every.min()), float(every.max())
    step = max(1, round((high - low) / 40))
    _draw_densities(figure.add_subplot(), names, values, np.arange(low - 0.5, high + step, step), label)


def draw_ratios(figure: Any, names: list[str], values: list[np.ndarray], label: str) -> None:
    """Densities of positive numbers on a logarithmic axis."""
    every = np.concatenate(values)
    axes = figure.add_subplot()
    bins = np.geomspace(max(float(every.min()), 1e-3), float(every.max()) + 1e-9, 41)
    _draw_densities(axes, names, values, bins, label)
    log_axis(axes, "x")


def _draw_densities(axes: Any, names: list[str], values: list[np.ndarray], bins: np.ndarray, label: str) -> None:
    for name, column, colour in zip(names, values, COLOURS, strict=False):
        axes.hist(column, bins, density=True, histtype="step", linewidth=1.8, color=colour, label=name)
    axes.set_xlabel(label)
    axes.set_ylabel("density")
    axes.legend(frameon=False)


def draw_sizes(figure: Any, names: list[str], sizes: list[np.ndarray]) -> None:
    """Heat map of (width, height) in pixels of each split, on logarithmic axes."""
    every = np.concatenate(sizes)
    low, high = np.maximum(every.min(axis=0), 1e-3), every.max(axis=0)
    bins = [np.geomspace(low[k], max(high[k], low[k] * 1.01), 41) for k in (0, 1)]
    for axes in _draw_heat(figure, names, sizes, bins, ("width, pixels", "height, pixels")):
        log_axis(axes, "x")
        log_axis(axes, "y")


def draw_centres(figure: Any, names: list[str], centres: list[np.ndarray]) -> None:
    """Heat map of where boxes lie, (x, y) as shares of the image, the top at the top."""
    bins = [np.linspace(0, 1, 41)] * 2
    for axes in _draw_heat(figure, names, centres, bins, ("x, share of the width", "y, share of the height")):
        axes.invert_yaxis()


def _draw_heat(
    figure: Any, names: list[str], values: list[np.ndarray], bins: list[np.ndarray], labels: tuple[str, str]
) -> list[Any]:
    panels = []
    for n, (name, rows) in enumerate(zip(names, values, strict=True), 1):
        axes = figure.add_subplot(1, len(values), n)
        axes.hist2d(rows[:, 0], rows[:, 1], bins=bins, cmap="viridis")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        panels.append(axes)
    return panels


def log_axis(axes: Any, which: str) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of every decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def picture(draw: Callable[[Any], None], width: float = 7, height: float = 3.6) -> bytes:
    """A PNG of what `draw` puts onto a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
