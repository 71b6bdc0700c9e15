"""`python -m detector.explore --data D --out DIR`: what is in a dataset, before anything is trained on it.

Class counts, boxes per image, box sizes, shapes and places per split as pictures and one HTML page; whether training and
validation images differ beyond chance; and with `--fit-anchors` which boxes the configured anchors can reach, and which
sizes and ratios would reach more.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from detector.commands import check_out_folder, command
from detector.config import DetectorConfig
from detector.data.dataset import DataError, DataSource, DetectionDataset, Split
from detector.data.letterbox import canvas_boxes
from detector.data.shift import Shift, box_measures, compare_splits, kept_labels
from detector.explore_pictures import TITLES, pictures
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


def page(name: str, told: dict[str, Any], drawn: dict[str, bytes]) -> str:
    """Everything as one HTML page that opens from disk."""
    from results.pages import page_of, picture, table

    medians = [
        {"split": split, **{k: v["q50"] if isinstance(v, dict) else v for k, v in facts.items() if k != "by_class"}}
        for split, facts in told["splits"].items()
    ]
    parts = [f"<h1>{html.escape(name)}</h1>", table(medians), "<p>Sizes and boxes per image: medians.</p>"]
    parts += [f"<h2>{TITLES[key]}</h2>{picture(TITLES[key], png)}" for key, png in drawn.items()]
    parts += [
        "<h2>Do training and validation differ?</h2>",
        f"<p>{html.escape(told['shift_verdict'])} Chance: how often {html.escape(told['groups'])} dealt at random are as "
        "far apart; adjusted over all rows (Holm).</p>",
        table(told["shift"]),
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
        parts += ["<h2>Which boxes anchors reach</h2>", f"<p>{html.escape(text)}</p>", table(rows)]
    return page_of(name, parts, [])


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
        check_out_folder(options.out)
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
