"""`python -m detector.predict --checkpoint FILE --images .. --out DIR`: pictures with boxes, and COCO detections."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from detector.commands import check_device, check_torch_pair, command
from detector.config import DetectorConfig
from detector.data.dataset import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Okabe and Ito's colour-blind-safe colours, one per class in turn.
BOX_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#FFFFFF")


class Predictor:
    """A trained detector with its input statistics, classes and score thresholds, from a checkpoint."""

    def __init__(self, checkpoint: Path, device: str | None = None) -> None:
        import torch

        from detector.model.detector import Detector
        from detector.trainer import default_device, load_checkpoint

        state = load_checkpoint(checkpoint)
        if state is None:
            raise DataError(
                f"--checkpoint {checkpoint}: must be a checkpoint of detector.train or of a study (best.pt)"
            )
        # Weights come from the checkpoint: the files that training started from need not be here.
        config = DetectorConfig.from_dict({**state["config"], "trunk_weights": "", "detector_weights": ""})
        self.device = torch.device(device or default_device())
        self.config, self.class_names = config, list(state["class_names"])
        self.model = Detector(config, len(self.class_names)).to(self.device).eval()
        weights = state["model"]
        if state.get("ema"):
            prefix = "module."
            weights = {k.removeprefix(prefix): v for k, v in state["ema"].items() if k.startswith(prefix)}
        self.model.load_state_dict(weights)
        self.mean = torch.tensor(state["channel_mean"], device=self.device)
        self.std = torch.tensor(state["channel_std"], device=self.device)
        # The weights are those of the last epoch in the history, which best.pt ends with the best of.
        found = state["history"][-1]["best_f1_scores"] if state["history"] else {}
        self.thresholds = {name: found.get(name, 0.5) for name in self.class_names}

    def __call__(self, pixels: np.ndarray) -> list[dict[str, Any]]:
        """Detections of one RGB image (height, width, 3) uint8: label, score and bbox xywh in its own pixels."""
        import torch
        from PIL import Image

        from detector.data.augment import normalise_plainly
        from detector.data.cache import letterbox

        canvas = np.empty((*self.config.image_size_px, 3), dtype=np.uint8)
        _, scale = letterbox(Image.fromarray(pixels), (pixels.shape[1], pixels.shape[0]), canvas)
        image = torch.from_numpy(canvas).to(self.device)[None]
        found = self.model.detect(normalise_plainly(image, self.mean, self.std)).cpu()
        boxes = found.boxes_xyxy.double().numpy() / scale
        limit = np.array([pixels.shape[1], pixels.shape[0]] * 2, dtype=np.float64)
        boxes = np.minimum(boxes, limit)
        return [
            {"label": label, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for (x1, y1, x2, y2), label, score in zip(
                boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
            )
        ]


def draw(pixels: np.ndarray, detections: Iterable[dict[str, Any]], class_names: list[str]) -> Any:
    """The image with a box and a caption per detection, enlarged to at least 600 pixels in width."""
    from PIL import Image, ImageDraw

    enlarge = max(1, -(-600 // pixels.shape[1]))
    picture = Image.fromarray(pixels).resize((pixels.shape[1] * enlarge, pixels.shape[0] * enlarge))
    pen = ImageDraw.Draw(picture)
    for row in detections:
        x, y, w, h = (value * enlarge for value in row["bbox"])
        colour = BOX_COLOURS[row["label"] % len(BOX_COLOURS)]
        pen.rectangle([x, y, x + w, y + h], outline=colour, width=2)
        pen.text((x + 2, max(0, y - 11)), f"{class_names[row['label']]} {row['score']:.2f}", fill=colour)
    return picture


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
    from PIL import Image

    from detector.data.cache import open_rgb

    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, file in enumerate(files, 1):
        try:
            pixels = np.asarray(open_rgb(file)[0])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{file}: must be a readable image ({error})") from None
        found = predictor(pixels)
        rows += [
            {"image_id": number, "file_name": file.name, "category_id": row["label"] + 1, "bbox": row["bbox"],
             "score": row["score"]} for row in found
        ]  # fmt: skip
        names = predictor.class_names
        shown = [
            r
            for r in found
            if r["score"] >= (predictor.thresholds[names[r["label"]]] if threshold is None else threshold)
        ]
        draw(pixels, shown, names).save(
            out / f"{file.stem}.png" if len(files) == 1 else out / f"{number:04d}_{file.stem}.png"
        )
    (out / "detections.json").write_text(json.dumps(rows))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m detector.predict", description="Draws a detector's boxes on images."
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="best.pt of detector.train or of a study's trial"
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="image files or folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and detections.json")
    parser.add_argument(
        "--threshold", type=float, default=None, help="draw from this score on (default: each class's score of best F1)"
    )
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print the detections as one JSON array")
    options = parser.parse_args(arguments)
    with command():
        check_torch_pair()
        check_device(options.device)
        predictor = Predictor(options.checkpoint, options.device)
        rows = predict(predictor, image_files(options.images), options.out, options.threshold)
    if options.json:
        print(json.dumps(rows))
    else:
        print(f"{len(rows)} detections; pictures and detections.json in {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
