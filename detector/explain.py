"""`python -m detector.explain --checkpoint FILE --images .. --out DIR`: where a detector looked, beside what it found.

A sheet an image: its detections, then for each of the best few the class-activation maps of the pyramid level that the
detection came from, by EigenCAM (what the level's features share, whatever the class) and by HiResCAM (gradients of the
detection's own logit). Maps by the library `grad-cam`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detector.commands import CommandError, check_device, check_extra, check_out_folder, check_torch_pair, command
from detector.drawing import draw, sheet
from detector.model.cells import num_anchors_per_level
from detector.predict import image_files
from detector.predictor import Predictor, read_pixels

METHODS = ("eigencam", "hirescam", "gradcam", "layercam")
DEFAULT_METHODS = ("eigencam", "hirescam")


class LogitsByLevel(nn.Module):
    """Normalised images -> class logits (B, A, C), every level's map passing through a module of its own."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model = predictor.model
        self.levels = nn.ModuleList(nn.Identity() for _ in range(predictor.config.num_levels))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.model.neck(self.model.trunk(images))
        return self.model.head.logits([level(x) for level, x in zip(self.levels, maps, strict=True)])


def explain(
    predictor: Predictor, pixels: np.ndarray, methods: tuple[str, ...], most: int
) -> tuple[Any, list[dict[str, Any]]]:
    """(a sheet of pictures, a row a detection with its level) for the `most` best detections of an image."""
    canvas, scale = predictor.canvas_of(pixels)
    images = predictor.normalised(canvas)
    found = sorted(predictor(pixels), key=lambda row: -row["score"])
    shown = predictor.shown(found)[:most] or found[:1]
    anchors = anchors_of(predictor, images, shown, scale)
    ends = np.cumsum(num_anchors_per_level(predictor.config))
    pictures = [draw(pixels, shown, predictor.class_names)]
    captions = [f"{len(shown)} of {len(found)} detections explained"]
    rows = []
    for row, anchor in zip(shown, anchors, strict=True):
        level = int(np.searchsorted(ends, anchor, side="right"))
        name = predictor.class_names[row["label"]]
        rows.append({**row, "class": name, "level": level, "anchor": anchor})
        for method in methods:
            heat = class_activation_map(predictor, images, method, level, anchor, row["label"])
            heat = to_image(heat, pixels.shape[:2], scale)
            pictures.append(draw(overlay(pixels, heat), [row], predictor.class_names))
            captions.append(f"{method}, pyramid level {level}: {name} {row['score']:.2f}")
    return sheet(pictures, captions), rows


def anchors_of(predictor: Predictor, images: Tensor, detections: list[dict[str, Any]], scale: float) -> list[int]:
    """The anchor that each detection (bbox xywh in image pixels) was decoded from: the one whose box is nearest."""
    model = predictor.model
    with torch.no_grad():
        regression = model(images)[1][0]
        boxes = model.postprocess.coder.decode(regression, model.anchors_xyxy).cpu().double()
    height, width = predictor.config.image_size_px
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height], dtype=torch.float64))
    anchors = []
    for row in detections:
        x, y, w, h = (value * scale for value in row["bbox"])
        anchors.append(int((boxes - torch.tensor([x, y, x + w, y + h])).abs().sum(dim=1).argmin()))
    return anchors


def class_activation_map(
    predictor: Predictor, images: Tensor, method: str, level: int, anchor: int, label: int
) -> np.ndarray:
    """Activation (H, W) in 0..1 on the canvas, of one level's map for one anchor's logit of one class."""
    import pytorch_grad_cam

    kind = {
        "eigencam": pytorch_grad_cam.EigenCAM,
        "hirescam": pytorch_grad_cam.HiResCAM,
        "gradcam": pytorch_grad_cam.GradCAM,
        "layercam": pytorch_grad_cam.LayerCAM,
    }[method]
    graph = LogitsByLevel(predictor).eval()
    with kind(model=graph, target_layers=[graph.levels[level]]) as cam:
        heat: np.ndarray = cam(input_tensor=images, targets=[lambda logits: logits[anchor, label]])[0]
    return heat


def to_image(heat: np.ndarray, size: tuple[int, ...], scale: float) -> np.ndarray:
    """A map on the canvas (H, W) as one on the image of `size` (height, width): the letterbox undone."""
    from PIL import Image

    height, width = (max(1, min(limit, round(side * scale))) for side, limit in zip(size, heat.shape, strict=False))
    content = Image.fromarray(heat[:height, :width].astype(np.float32))
    return np.asarray(content.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image with the map over it in colours, (height, width, 3) uint8."""
    from pytorch_grad_cam.utils.image import show_cam_on_image

    mixed: np.ndarray = show_cam_on_image(pixels.astype(np.float32) / 255, heat, use_rgb=True)
    return mixed


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m detector.explain", description="Class-activation maps of detections, beside the boxes."
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="best.pt of detector.train or of a study's trial"
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="image files or folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sheets")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=DEFAULT_METHODS, help=f"(default: {' '.join(DEFAULT_METHODS)})"
    )
    parser.add_argument("--top", type=int, default=2, help="detections explained an image (default: 2)")
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print the explained detections as one JSON array")
    options = parser.parse_args(arguments)
    with command():
        check_torch_pair()
        check_device(options.device)
        check_extra("explain", "pytorch_grad_cam")
        check_out_folder(options.out)
        if options.top < 1:
            raise CommandError(f"--top must be at least 1, got {options.top}")
        predictor = Predictor(options.checkpoint, options.device)
        files = image_files(options.images)
        options.out.mkdir(parents=True, exist_ok=True)
        told = []
        for number, file in enumerate(files, 1):
            page, rows = explain(predictor, read_pixels(file), tuple(options.methods), options.top)
            page.save(options.out / f"{number:04d}_{file.stem}.png")
            told += [{"file_name": file.name, **row} for row in rows]
    if options.json:
        print(json.dumps(told))
    else:
        print(f"{len(files)} sheets in {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
