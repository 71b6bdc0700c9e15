"""What detector.explore shows: pictures of a dataset's splits, and everything on one HTML page that opens from disk."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from detector.data.dataset import Split
from detector.data.shift import box_measures, kept_labels
from detector.drawing import BOX_COLOURS


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


def log_axis(axes: Any, which: str) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of every decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def pictures(splits: list[Split]) -> dict[str, bytes]:
    """The page's pictures by name."""
    measured = [box_measures(split) for split in splits]
    names, colours = [split.name for split in splits], BOX_COLOURS[1:]

    def classes(figure: Any) -> None:
        axes = figure.add_subplot()
        total = len(splits)
        for n, split in enumerate(splits):
            labels = kept_labels(split)
            share = np.bincount(labels, minlength=len(split.class_names)) / max(1, len(labels))
            place = np.arange(len(share)) + (n - (total - 1) / 2) * 0.8 / total
            axes.bar(place, share, 0.8 / total, color=colours[n], label=f"{split.name} ({len(labels)} boxes)")
        axes.set_xticks(range(len(splits[0].class_names)), splits[0].class_names, rotation=30, ha="right")
        axes.set_ylabel("share of boxes")
        axes.legend(frameon=False)

    def histogram(values: list[np.ndarray], label: str, log: bool) -> Callable[[Any], None]:
        def draw(figure: Any) -> None:
            axes = figure.add_subplot()
            every = np.concatenate(values)
            low, high = float(every.min()), float(every.max())
            # Counts: a bin a number, or a few; anything else would leave empty bins between whole numbers.
            step = max(1, round((high - low) / 40))
            bins = np.geomspace(max(low, 1e-3), high + 1e-9, 41) if log else np.arange(low - 0.5, high + step, step)
            for n, column in enumerate(values):
                axes.hist(column, bins, density=True, histtype="step", linewidth=1.8, color=colours[n], label=names[n])
            if log:
                log_axis(axes, "x")
            axes.set_xlabel(label)
            axes.set_ylabel("density")
            axes.legend(frameon=False)

        return draw

    def heat(columns: tuple[int, int], labels: tuple[str, str], log: bool) -> Callable[[Any], None]:
        def draw(figure: Any) -> None:
            every = np.concatenate(measured)[:, columns]
            low, high = np.maximum(every.min(axis=0), 1e-3), every.max(axis=0)
            spread = np.geomspace if log else np.linspace
            bins = (
                [spread(low[k], max(high[k], low[k] * 1.01), 41) for k in (0, 1)]
                if log
                else [np.linspace(0, 1, 41)] * 2
            )
            for n, rows in enumerate(measured):
                axes = figure.add_subplot(1, len(measured), n + 1)
                axes.hist2d(rows[:, columns[0]], rows[:, columns[1]], bins=bins, cmap="viridis")
                axes.set_title(names[n], fontsize=10)
                if log:
                    log_axis(axes, "x")
                    log_axis(axes, "y")
                else:
                    axes.invert_yaxis()
                axes.set_xlabel(labels[0])
                axes.set_ylabel(labels[1])

        return draw

    per_image = [np.array([int((~crowd).sum()) for crowd in split.crowd], dtype=float) for split in splits]
    return {
        "class_counts": picture(classes),
        "boxes_per_image": picture(histogram(per_image, "boxes per image", log=False)),
        "sizes": picture(heat((0, 1), ("width, pixels", "height, pixels"), log=True), width=3.6 * len(splits)),
        "aspect_ratios": picture(histogram([rows[:, 3] for rows in measured], "height / width", log=True)),
        "centres": picture(
            heat((4, 5), ("x, share of the width", "y, share of the height"), log=False), 3.6 * len(splits)
        ),
    }


TITLES = {
    "class_counts": "Classes",
    "boxes_per_image": "Boxes per image",
    "sizes": "Box sizes",
    "aspect_ratios": "Box shapes",
    "centres": "Where boxes lie",
}


def page(name: str, told: dict[str, Any], drawn: dict[str, bytes]) -> str:
    """Everything as one HTML page that opens from disk."""
    parts = [f"<h1>{html.escape(name)}</h1>", _facts_table(told["splits"])]
    for key, png in drawn.items():
        source = base64.b64encode(png).decode()
        parts.append(f'<h2>{TITLES[key]}</h2><img alt="{TITLES[key]}" src="data:image/png;base64,{source}">')
    parts += [
        "<h2>Do training and validation differ?</h2>",
        f"<p>{html.escape(told['shift_verdict'])} Chance: how often {html.escape(told['groups'])} dealt at random are as "
        "far apart; adjusted over all rows (Holm).</p>",
        _table(told["shift"]),
    ]
    if "anchors" in told:
        rows = [
            {"anchors": which, "of": group, **numbers}
            for which in ("configured", "proposed")
            for group, numbers in (
                ("all boxes", told["anchors"][which]["all"]),
                *told["anchors"][which]["by_size"].items(),
                *told["anchors"][which]["by_class"].items(),
            )
        ]
        proposed = told["anchors"]["proposed"]
        text = f"Proposed: anchor_sizes {proposed['anchor_sizes']}, anchor_ratios {proposed['anchor_ratios']}, scale 1."
        parts += ["<h2>Which boxes anchors reach</h2>", f"<p>{html.escape(text)}</p>", _table(rows)]
    return _PAGE.format(title=html.escape(name), body="\n".join(parts))


def _facts_table(splits: dict[str, Any]) -> str:
    rows = [
        {
            "split": name,
            **{k: v if not isinstance(v, dict) else v.get("q50", "") for k, v in facts.items() if k != "by_class"},
        }
        for name, facts in splits.items()
    ]
    return _table(rows) + "<p>Sizes and boxes per image: medians.</p>"


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    cells = [[f"{v:.3f}" if isinstance(v := row.get(name, ""), float) else str(v) for name in names] for row in rows]
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 66rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left; white-space: nowrap; }}
.scroll {{ overflow-x: auto; }}
img {{ max-width: 100%; height: auto; background: white; }}
</style></head><body>
{body}
</body></html>
"""
