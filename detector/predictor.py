"""A trained detector, ready for images of any size: from a checkpoint of detector.train or of a study's trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detector.config import DetectorConfig
from detector.data.dataset import DataError


class Predictor:
    """A trained detector with its input statistics, classes and score thresholds, from a checkpoint."""

    def __init__(self, checkpoint: Path, device: str | None = None) -> None:
        import torch

        from detector.checkpoint import load_checkpoint
        from detector.model.detector import Detector
        from detector.model.pretrained import evaluated_weights
        from detector.trainer import default_device

        state = load_checkpoint(checkpoint)
        if state is None:
            raise DataError(
                f"--checkpoint {checkpoint}: must be a checkpoint of detector.train or of a study (best.pt)"
            )
        config = DetectorConfig.from_record(state["config"])
        self.device = torch.device(device or default_device())
        self.config, self.class_names = config, list(state["class_names"])
        self.weights = state.get(
            "weights"
        )  # where training started: name, source, hash, size, licence; None: from nothing
        self.model = Detector(config, len(self.class_names)).to(self.device).eval()
        self.model.load_state_dict(evaluated_weights(state))
        self.mean = torch.tensor(state["channel_mean"], device=self.device)
        self.std = torch.tensor(state["channel_std"], device=self.device)
        # The weights are those of the last epoch in the history, which best.pt ends with the best of.
        found = state["history"][-1]["best_f1_scores"] if state["history"] else {}
        self.thresholds = {name: found.get(name, 0.5) for name in self.class_names}

    def canvas_of(self, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        """(the image letterboxed onto the canvas (H, W, 3) uint8, canvas pixels per pixel of the image)."""
        from PIL import Image

        from detector.data.letterbox import letterbox

        canvas = np.empty((*self.config.image_size_px, 3), dtype=np.uint8)
        _, scale = letterbox(Image.fromarray(pixels), (pixels.shape[1], pixels.shape[0]), canvas)
        return canvas, scale

    def normalised(self, canvas: np.ndarray) -> Any:
        """The canvas as the detector's input: (1, 3, H, W) float tensor on its device."""
        import torch

        from detector.data.augment import normalise_plainly

        image = torch.from_numpy(canvas).to(self.device)[None]
        return normalise_plainly(image, self.mean, self.std)

    def __call__(self, pixels: np.ndarray) -> list[dict[str, Any]]:
        """Detections of one RGB image (height, width, 3) uint8: label, score and bbox xywh in its own pixels."""
        canvas, scale = self.canvas_of(pixels)
        found = self.model.detect(self.normalised(canvas)).cpu()
        boxes = found.boxes_xyxy.double().numpy() / scale
        limit = np.array([pixels.shape[1], pixels.shape[0]] * 2, dtype=np.float64)
        boxes = np.minimum(boxes, limit)
        return [
            {"label": label, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for (x1, y1, x2, y2), label, score in zip(
                boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
            )
        ]

    def shown(self, detections: list[dict[str, Any]], threshold: float | None = None) -> list[dict[str, Any]]:
        """Those at or above `threshold`, by default at or above each class's score of best F1."""
        least = [self.thresholds[name] if threshold is None else threshold for name in self.class_names]
        return [row for row in detections if row["score"] >= least[row["label"]]]


def read_pixels(path: Path) -> np.ndarray:
    """An image file as RGB (height, width, 3) uint8.

    Raises: DataError where it cannot be read.
    """
    from PIL import Image

    from detector.data.letterbox import open_rgb

    try:
        return np.asarray(open_rgb(path)[0])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: must be a readable image ({error})") from None
