"""`python -m detector.explore --data D --out DIR`: what is in a dataset, before anything is trained on it.

Class counts, boxes per image, box sizes, shapes and places per split as pictures and one HTML page; whether training and
validation images differ beyond chance; and with `--fit-anchors` which boxes the configured anchors can reach, and which
sizes and ratios would reach more.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detector.commands import CommandError, command
from detector.config import DetectorConfig
from detector.data.cache import canvas_boxes
from detector.data.dataset import DataError, DataSource, DetectionDataset, Split
from detector.data.shift import Shift, box_measures, compare_splits
from detector.drawing import BOX_COLOURS
from detector.model.cells import best_overlaps, match_threshold

CLEAR = 0.05  # adjusted chance below which a difference is called one


def split_facts(split: Split, area_ranges_px: tuple[float, float]) -> dict[str, Any]:
    """Counts of a split, ready for JSON: images, boxes, boxes by class, quantiles of sizes, shares by area."""
    measures = box_measures(split)
    labels = kept_labels(split)
    per_image = np.array([int((~crowd).sum()) for crowd in split.crowd])
    counts = np.bincount(labels, minlength=len(split.class_names)).tolist()
    small, medium = area_ranges_px
    root = measures[:, 2]
    return {
        "images": len(split.images),
        "boxes": len(labels),
        "by_class": dict(zip(split.class_names, counts, strict=True)),
        "boxes_per_image": _quantiles(per_image),
        "width_px": _quantiles(measures[:, 0]),
        "height_px": _quantiles(measures[:, 1]),
        "height_over_width": _quantiles(measures[:, 3]),
        "share_small": round(float((root < small).mean()), 4),
        "share_medium": round(float(((root >= small) & (root < medium)).mean()), 4),
        "share_large": round(float((root >= medium).mean()), 4),
    }


def kept_labels(split: Split) -> np.ndarray:
    """Class of every box that is not a crowd's, (N,)."""
    return np.concatenate([rows[~crowd] for rows, crowd in zip(split.labels, split.crowd, strict=True)])


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"q{q}": round(float(np.percentile(values, q)), 3) for q in (10, 25, 50, 75, 90)}


def anchor_report(config: DetectorConfig, dataset: DetectionDataset) -> dict[str, Any]:
    """How well a config's anchors reach the training boxes: by size and by class.

    `best_possible_recall`: share of boxes with an anchor at IoU 0.5 or more; `matched`: at the config's own threshold;
    `mean_iou`: mean over boxes of the best anchor's IoU.
    """
    boxes, labels, roots = canvas_boxes(dataset.train, config.image_size_px)
    best = best_overlaps(config, boxes)
    threshold = match_threshold(config)

    def told(chosen: np.ndarray) -> dict[str, Any]:
        if not chosen.any():
            return {"boxes": 0, "best_possible_recall": None, "matched": None, "mean_iou": None}
        return {
            "boxes": int(chosen.sum()),
            "best_possible_recall": round(float((best[chosen] >= 0.5).mean()), 4),
            "matched": round(float((best[chosen] >= threshold).mean()), 4),
            "mean_iou": round(float(best[chosen].mean()), 4),
        }

    small, medium = dataset.area_ranges_px
    sizes = {"small": roots < small, "medium": (roots >= small) & (roots < medium), "large": roots >= medium}
    return {
        "match_threshold": threshold,
        "all": told(np.ones(len(best), dtype=bool)),
        "by_size": {name: told(chosen) for name, chosen in sizes.items()},
        "by_class": {name: told(labels == k) for k, name in enumerate(dataset.class_names)},
    }


def fit_report(options: argparse.Namespace, dataset: DetectionDataset) -> dict[str, Any]:
    """The configured anchors' reach, proposed sizes and ratios, and theirs."""
    from detector.model.cells import level_strides
    from detector.train import read_config
    from spaces.fitting import DatasetFacts, fit_anchors
    from spaces.loading import load_space
    from spaces.space import resolve

    facts = DatasetFacts(**dataset.facts())
    if options.config:
        config = read_config(options.config)
    else:
        config = resolve(load_space(options.space), options.profile, facts).base
    sizes, ratios = fit_anchors(
        facts,
        config.image_size_px,
        level_strides(config),
        len(config.anchor_ratios),
        len(config.anchor_scales),
        options.seed,
    )
    values = {"anchor_kind": "retinanet", "anchor_sizes": sizes, "anchor_ratios": ratios, "anchor_scales": (1.0,)}
    proposed = config.with_values({**values, "head_shared": config.head_shared and config.neck != "none"})
    configured = {
        name: value
        for name, value in config.active_dict().items()
        if name.startswith(("anchor_", "prior_")) and name != "prior_probability"
    }
    return {
        "canvas": list(config.image_size_px),
        "configured": {**configured, **anchor_report(config, dataset)},
        "proposed": {**{k: proposed.to_dict()[k] for k in values}, **anchor_report(proposed, dataset)},
    }


# Pictures -----------------------------------------------------------------------------------------------------------


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


def verdict(shifts: list[Shift]) -> str:
    """What the comparison comes to, in a sentence."""
    clear = [shift for shift in shifts if shift.adjusted < CLEAR]
    if not clear:
        return f"No difference stands out from chance in {len(shifts)} comparisons."
    named = ", ".join(f"{shift.what} ({shift.first:.3g} against {shift.second:.3g})" for shift in clear)
    return f"{len(clear)} of {len(shifts)} comparisons differ beyond chance: {named}."


def explore(options: argparse.Namespace) -> dict[str, Any]:
    """Writes the pictures and index.html into --out; returns what they say."""
    from detector.data.coco import load_dataset, read_split

    source = DataSource.from_folder(options.data)
    dataset = load_dataset(source, options.skip_bad)
    splits = list(dataset.splits)
    if source.extended:
        splits.append(read_split("extended", *source.extended, skip_bad=options.skip_bad))
    for split in splits:
        if all(crowd.all() for crowd in split.crowd):
            raise DataError(f"{split.annotations}: the {split.name} split must have a box that is not a crowd's")
    shifts = compare_splits(dataset.train, dataset.val, options.sequence, options.seed)
    told: dict[str, Any] = {
        "dataset": dataset.name,
        "splits": {split.name: split_facts(split, dataset.area_ranges_px) for split in splits},
        "groups": f"sequences by {options.sequence!r}" if options.sequence else "images",
        "shift_verdict": verdict(shifts),
        "shift": [vars(shift) for shift in shifts],
    }
    if options.fit_anchors:
        told["anchors"] = fit_report(options, dataset)
    drawn = pictures(splits)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, png in drawn.items():
        (options.out / f"{name}.png").write_bytes(png)
    (options.out / "index.html").write_text(page(dataset.name, told, drawn), encoding="utf-8")
    return told


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    from spaces.distributions import SpaceError

    parser = argparse.ArgumentParser(
        prog="python -m detector.explore", description="What is in a dataset, in pictures."
    )
    parser.add_argument("--data", required=True, help="folder with train.json, val.json, images/")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and index.html")
    parser.add_argument(
        "--sequence",
        help="regular expression on file names; what it finds names the sequence (default: each image alone)",
    )
    parser.add_argument("--fit-anchors", action="store_true", help="the anchors' reach, and better ones (default: no)")
    parser.add_argument("--space", default="retinanet", help="whose anchors are looked at (default: retinanet)")
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="of the space (default: cpu)")
    parser.add_argument("--config", type=Path, help="look at this config's anchors instead, YAML or JSON")
    parser.add_argument("--seed", type=int, default=0, help="of shuffles and k-means (default: 0)")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out what is wrong with the data (default: refuse)"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as one JSON object")
    options = parser.parse_args(arguments)
    with command(SpaceError):
        if options.out.exists() and not options.out.is_dir():
            raise CommandError(f"--out must be a folder; {options.out} is a file")
        told = explore(options)
    if options.json:
        print(json.dumps(told))
        return
    for name, facts in told["splits"].items():
        print(f"{name:>6}: {facts['images']} images, {facts['boxes']} boxes; {facts['by_class']}")
    print(told["shift_verdict"])
    if "anchors" in told:
        for which in ("configured", "proposed"):
            found = told["anchors"][which]
            print(
                f"{which} anchors: matched {found['all']['matched']:.1%} of the boxes at IoU {found['match_threshold']:g}"
            )
        proposed = told["anchors"]["proposed"]
        print(
            f"proposed: anchor_kind=retinanet anchor_sizes={proposed['anchor_sizes']} anchor_ratios={proposed['anchor_ratios']} anchor_scales=[1.0]"
        )
    print(f"pictures and index.html in {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
