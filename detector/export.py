"""`python -m detector.export --checkpoint best.pt --onnx out.onnx`: the detector with decoding and NMS as one ONNX graph.

Input `pixels` (1, H, W, 3) uint8: an image letterboxed onto the checkpoint's canvas (top left, shape kept). Outputs, best
first: `boxes` (D, 4) xyxy canvas pixels, `scores` (D,), `labels` (D,) class index. The class names, canvas and thresholds
of best F1 are in the model's metadata.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detector.commands import CommandError, check_extra, check_torch_pair, command
from detector.data.augment import normalise_plainly
from detector.model.postprocess import Candidates
from detector.predictor import Predictor


class CandidateGraph(nn.Module):
    """Pixels (1, H, W, 3) uint8 -> (boxes (1, k, 4), scores (1, K, k)): what class-wise NMS starts from.

    A candidate's score stands in the row of its class and is 0 in all others.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model = predictor.model
        self.num_classes = len(predictor.class_names)
        self.register_buffer("mean", predictor.mean)
        self.register_buffer("std", predictor.std)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        images = normalise_plainly(pixels.float(), self.mean, self.std)  # type: ignore[arg-type]
        logits, box_regression = self.model(images)
        found: Candidates = self.model.postprocess.candidates(logits, box_regression, self.model.anchors_xyxy)
        row = torch.arange(self.num_classes)[None, :, None]
        scores = torch.where((found.labels[:, None] == row) & found.sound[:, None], found.scores[:, None], 0.0)
        return found.boxes_xyxy, scores


def export_onnx(predictor: Predictor, path: Path) -> None:
    """Writes the detector of a predictor (on the CPU) as ONNX; weights lie inside the file."""
    import onnx

    graph = CandidateGraph(predictor).eval()
    height, width = predictor.config.image_size_px
    example = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own, about its insides
        plain = Path(scratch) / "candidates.onnx"
        torch.onnx.export(
            graph, (example,), plain, input_names=["pixels"], output_names=["candidates", "candidate_scores"],
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
        model = onnx.load(plain)
    append_suppression(
        model, predictor.config.score_threshold, predictor.config.nms_iou, predictor.config.max_detections
    )
    about = {
        "class_names": predictor.class_names,
        "image_size_px": [height, width],
        "thresholds": predictor.thresholds,
        "started_from": predictor.weights,
    }
    for key, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def append_suppression(model: Any, score_threshold: float, nms_iou: float, max_detections: int) -> None:
    """Puts class-wise NMS and the cut to the best `max_detections` behind candidates and candidate_scores."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, values: Any) -> str:
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    whole = np.int64
    most = constant(
        "nms_most_a_class", np.array([model.graph.output[0].type.tensor_type.shape.dim[1].dim_value], whole)
    )
    iou = constant("nms_iou", np.array([nms_iou], np.float32))
    least = constant("nms_score", np.array([score_threshold], np.float32))
    limit = constant("nms_max_detections", np.array([max_detections], whole))
    ends = [constant(f"nms_{n}", np.array([n], whole)) for n in range(4)]
    node = helper.make_node
    model.graph.node.extend(
        [
            node("NonMaxSuppression", ["candidates", "candidate_scores", most, iou, least], ["nms_kept"]),  # (M, 3)
            node("Slice", ["nms_kept", ends[1], ends[2], ends[1]], ["nms_class_2d"]),
            node("Slice", ["nms_kept", ends[2], ends[3], ends[1]], ["nms_place_2d"]),
            node("Squeeze", ["nms_class_2d", ends[1]], ["nms_class"]),
            node("Squeeze", ["nms_place_2d", ends[1]], ["nms_place"]),
            node("GatherND", ["candidate_scores", "nms_kept"], ["nms_scores"]),
            node("Shape", ["nms_scores"], ["nms_count"]),
            node("Min", ["nms_count", limit], ["nms_taken"]),
            node("TopK", ["nms_scores", "nms_taken"], ["scores", "nms_order"], axis=0, largest=1, sorted=1),
            node("Gather", ["nms_class", "nms_order"], ["labels"], axis=0),
            node("Gather", ["nms_place", "nms_order"], ["nms_best"], axis=0),
            node("Squeeze", ["candidates", ends[0]], ["candidates_2d"]),
            node("Gather", ["candidates_2d", "nms_best"], ["boxes"], axis=0),
        ]
    )
    del model.graph.output[:]
    ends_in: list[tuple[str, int, list[str | int]]] = [
        ("boxes", TensorProto.FLOAT, ["detections", 4]),
        ("scores", TensorProto.FLOAT, ["detections"]),
        ("labels", TensorProto.INT64, ["detections"]),
    ]
    for name, kind, shape in ends_in:
        model.graph.output.append(helper.make_tensor_value_info(name, kind, [*shape]))


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m detector.export", description="A trained detector, decoding and NMS included, as ONNX."
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="best.pt of detector.train or of a study's trial"
    )
    parser.add_argument("--onnx", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    with command():
        check_torch_pair()
        check_extra("export", "onnx", "onnxscript")
        if options.onnx.is_dir():
            raise CommandError(f"--onnx must be a file to write; {options.onnx} is a folder")
        above = next(part for part in options.onnx.absolute().parents if part.exists())
        if not above.is_dir():
            raise CommandError(f"--onnx must lie in a folder; {above} is a file")
        export_onnx(Predictor(options.checkpoint, "cpu"), options.onnx)
    print(f"{options.onnx}: {options.onnx.stat().st_size / 2**20:.1f} MiB", file=sys.stderr)


if __name__ == "__main__":
    main()
