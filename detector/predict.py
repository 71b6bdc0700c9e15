"""`python -m detector.predict --checkpoint FILE --images .. --out DIR`: pictures with boxes, and COCO detections.

With `--compare runs/<study>` the same images go through every step of an ablation (or base and best of a search), ground
truth on top: one sheet an image.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from detector.commands import CommandError, check_device, check_out_folder, check_torch_pair, command
from detector.data.dataset import DataError
from detector.drawing import draw, sheet
from detector.predictor import Predictor, read_pixels

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def image_files(paths: list[Path]) -> list[Path]:
    """The image files among paths and directly inside folders, sorted.

    Raises: DataError where there is none.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"--images {path}: there is no such file or folder")
    if not files:
        raise DataError(f"--images: no image ({', '.join(IMAGE_SUFFIXES)}) in {', '.join(map(str, paths))}")
    return files


def predict(predictor: Predictor, files: list[Path], out: Path, threshold: float | None) -> list[dict[str, Any]]:
    """Writes a picture per image and detections.json; returns the COCO rows (image id = position + 1)."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, file in enumerate(files, 1):
        pixels = read_pixels(file)
        found = predictor(pixels)
        rows += [
            {"image_id": number, "file_name": file.name, "category_id": row["label"] + 1, "bbox": row["bbox"],
             "score": row["score"]} for row in found
        ]  # fmt: skip
        picture = draw(pixels, predictor.shown(found, threshold), predictor.class_names)
        picture.save(out / f"{file.stem}.png" if len(files) == 1 else out / f"{number:04d}_{file.stem}.png")
    (out / "detections.json").write_text(json.dumps(rows))
    return rows


def compare(
    checkpoints: dict[str, Path], files: list[Path], truth: dict[Path, list[dict[str, Any]]], out: Path, options: Any
) -> list[dict[str, Any]]:
    """A sheet an image: ground truth, then what each named checkpoint finds; returns name, image and counts.

    truth: by resolved path of the image, rows with label and bbox xywh in its pixels.
    """
    out.mkdir(parents=True, exist_ok=True)
    predictors = {name: Predictor(path, options.device) for name, path in checkpoints.items()}
    names = next(iter(predictors.values())).class_names
    told: list[dict[str, Any]] = []
    for number, file in enumerate(files, 1):
        pixels = read_pixels(file)
        real = truth.get(file.resolve())
        pictures = [] if real is None else [draw(pixels, real, names)]
        captions = [] if real is None else [f"ground truth: {len(real)} boxes"]
        for name, predictor in predictors.items():
            shown = predictor.shown(predictor(pixels), options.threshold)
            pictures.append(draw(pixels, shown, names))
            captions.append(f"{name}: {len(shown)} detections")
            told.append({"step": name, "file_name": file.name, "detections": len(shown)})
        sheet(pictures, captions).save(out / f"{number:04d}_{file.stem}.png")
    return told


def compare_study(options: argparse.Namespace) -> list[dict[str, Any]]:
    """`compare` over a study's steps, on --images or on the validation images that its pictures show."""
    from detector.data.coco import read_split
    from results.state import read_study

    plan, state = read_study(options.compare)
    first: dict[str, Path] = {}
    if "steps" in plan:
        for step in plan["steps"]:
            trained = [t for t in state.trials.values() if t.step == step["name"] and t.outcome == "finished"]
            if trained:  # as its table, by the last epoch
                first[step["name"]] = options.compare / "trials" / trained[0].id / "checkpoint.pt"
    else:
        best = state.best_trial()
        for name, trial in (("base", next(iter(state.trials.values()), None)), ("best", best)):
            if trial is not None and trial.epochs:
                first[name] = options.compare / "trials" / trial.id / "best.pt"
    if not first:
        raise CommandError(f"--compare {options.compare}: no trial of this study has a checkpoint yet")
    files = image_files(options.images or [Path(shown["path"]) for shown in plan["shown_images"]])
    annotations, folder = map(Path, plan["source"]["val"])
    val = read_split("val", annotations, folder, plan["skip_bad"])
    truth = {
        record.path.resolve(): [
            {"label": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True)
        ]
        for record, boxes, labels in zip(val.images, val.boxes_xyxy, val.labels, strict=True)
    }
    return compare(first, files, truth, options.out, options)


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    from results.records import JournalError

    parser = argparse.ArgumentParser(
        prog="python -m detector.predict", description="Draws a detector's boxes on images."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, help="best.pt of detector.train or of a study's trial")
    what.add_argument("--compare", type=Path, help="a study: every step of its chain (a search: base and best)")
    parser.add_argument(
        "--images", type=Path, nargs="+", help="image files or folders (with --compare the study's own by default)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and detections.json")
    parser.add_argument(
        "--threshold", type=float, default=None, help="draw from this score on (default: each class's score of best F1)"
    )
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print the detections as one JSON array")
    options = parser.parse_args(arguments)
    with command(JournalError):
        check_torch_pair()
        check_device(options.device)
        if options.checkpoint and not options.images:
            raise CommandError("--images must name the images to draw on; nothing was given")
        check_out_folder(options.out)
        if options.compare:
            rows = compare_study(options)
        else:
            predictor = Predictor(options.checkpoint, options.device)
            rows = predict(predictor, image_files(options.images), options.out, options.threshold)
    if options.json:
        print(json.dumps(rows))
    elif options.compare:
        print(f"{len({row['file_name'] for row in rows})} sheets in {options.out}", file=sys.stderr)
    else:
        print(f"{len(rows)} detections; pictures and detections.json in {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
