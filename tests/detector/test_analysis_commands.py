"""profile, explore, explain, export and predict --compare, as a user calls them, on a tiny street and a tiny detector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

from detector import explain, explore, export, predict, profile, train
from detector.config import DetectorConfig
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource
from detector.explore_pictures import TITLES
from detector.model.detector import Detector
from detector.predictor import Predictor, read_pixels
from tests.detector.conftest import TINY
from tests.detector.test_commands import refused

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
KINDS: dict[str, dict[str, Any]] = {
    "retinanet": {},
    "report": {
        "trunk": "report_ssd", "neck": "none", "neck_levels": (2, 3, 4), "extra_levels": 0, "head_shared": False, "head_depth": 0,
        "anchor_kind": "ssd", "prior_sizes": (8, 16, 32, 64), "prior_ratios": ((2,), (2, 3), (2,)), "class_scores": "softmax",
        "class_loss": "hard_negatives", "box_variances": (0.1, 0.2), "matcher": "ssd",
    },
    "bifpn": {"neck": "bifpn", "class_scores": "softmax"},
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(street: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An epoch of each kind of detector, by the command; scores low enough to have detections."""
    made = {}
    for name, values in KINDS.items():
        out = tmp_path_factory.mktemp("trained") / name
        config = out.parent / f"{name}.yaml"
        plain = DetectorConfig(
            **{**TINY, "score_threshold": 0.001, "schedule_epochs": 1, "max_detections": 30, **values}
        )
        config.write_text(yaml.safe_dump(plain.to_dict()))
        train.main(
            ["--config", str(config), "--data", str(street), "--out", str(out), "--threads", "1", "--device", "cpu"]
        )
        made[name] = out / "best.pt"
    return made


@pytest.fixture(scope="module")
def images(street: Path) -> list[Path]:
    """Three of the street, and two photographs where there are any."""
    photographs = sorted((SHARED / "data" / "bccd" / "images").glob("*.jpg"))[:2]
    return sorted((street / "images").glob("val_*.png"))[:3] + photographs


class TestExport:
    @pytest.mark.parametrize("kind", KINDS)
    def test_onnxruntime_gives_the_same_detections_on_real_images(
        self, kind: str, checkpoints: dict[str, Path], images: list[Path], tmp_path: Path
    ) -> None:
        out = tmp_path / "out.onnx"
        export.main(["--checkpoint", str(checkpoints[kind]), "--onnx", str(out)])
        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        predictor = Predictor(checkpoints[kind], "cpu")
        for path in images:
            canvas, _ = predictor.canvas_of(read_pixels(path))
            boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"pixels": canvas[None]})
            ours = predictor.model.detect(predictor.normalised(canvas))
            assert len(ours.scores) > 5, "nothing to compare"
            np.testing.assert_allclose(scores, ours.scores.numpy(), atol=1e-4)
            np.testing.assert_allclose(boxes, ours.boxes_xyxy.numpy(), atol=1e-4, rtol=1e-6)
            assert labels.tolist() == ours.labels.tolist()

    def test_the_model_says_what_its_numbers_mean(self, checkpoints: dict[str, Path], tmp_path: Path) -> None:
        out = tmp_path / "deeper" / "out.onnx"
        export.main(["--checkpoint", str(checkpoints["retinanet"]), "--onnx", str(out)])
        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        told = {
            k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items() if k != "pkg.onnxscript"
        }
        assert told["class_names"][0] == "car"
        assert told["image_size_px"] == [64, 256]
        assert set(told["thresholds"]) == set(told["class_names"])
        empty = session.run(None, {"pixels": np.zeros((1, 64, 256, 3), dtype=np.uint8)})
        assert empty[0].shape[1] == 4

    def test_mistakes(self, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "must be a checkpoint" in refused(export.main, ["--checkpoint", "no.pt", "--onnx", "x.onnx"], capsys)
        arguments = ["--checkpoint", str(checkpoints["bifpn"]), "--onnx", str(tmp_path)]
        assert "must be a file to write" in refused(export.main, arguments, capsys)


class TestExplain:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_sheet_an_image_with_maps_of_the_detections(
        self,
        kind: str,
        checkpoints: dict[str, Path],
        images: list[Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        arguments = [
            "--checkpoint",
            str(checkpoints[kind]),
            "--images",
            *map(str, images[:1]),
            "--out",
            str(tmp_path),
            "--json",
        ]
        explain.main([*arguments, "--top", "1"])
        (row,) = json.loads(capsys.readouterr().out)
        predictor = Predictor(checkpoints[kind], "cpu")
        assert row["class"] in predictor.class_names
        # The anchor is the detection's own: its logit is the detection's score.
        logits, _ = predictor.model(predictor.normalised(predictor.canvas_of(read_pixels(images[0]))[0]))
        scores = logits[0].softmax(-1) if predictor.config.class_scores == "softmax" else logits[0].sigmoid()
        assert scores[row["anchor"], row["label"]].item() == pytest.approx(row["score"], abs=1e-5)
        sheet = Image.open(tmp_path / f"0001_{images[0].stem}.png")
        alone = 128 * -(-600 // 512) + 14  # a picture and its caption
        assert sheet.height == 3 * alone  # boxes, EigenCAM, HiResCAM

    def test_the_gradient_map_is_highest_near_the_anchor(
        self, checkpoints: dict[str, Path], images: list[Path]
    ) -> None:
        predictor = Predictor(checkpoints["retinanet"], "cpu")
        inputs = predictor.normalised(predictor.canvas_of(read_pixels(images[0]))[0])
        anchor = 3 * 3 * (4 * 32 + 20)  # level 0 (stride 8, 9 anchors a cell): row 4, column 20: centre (164, 36)
        heat = explain.class_activation_map(predictor, inputs, "hirescam", 0, anchor, 0)
        assert heat.shape == (64, 256)
        assert heat.max() > 0
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        assert abs(x - 164) <= 24
        assert abs(y - 36) <= 24
        far = heat[:, :100]
        assert far.max() == pytest.approx(0, abs=1e-6), "no gradient reaches beyond the head's few cells"

    def test_mistakes(
        self, checkpoints: dict[str, Path], images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        base = ["--checkpoint", str(checkpoints["bifpn"]), "--out", str(tmp_path)]
        assert "--top must be" in refused(explain.main, [*base, "--images", str(images[0]), "--top", "0"], capsys)
        assert "no such file" in refused(explain.main, [*base, "--images", "nowhere.png"], capsys)


class TestExplore:
    def test_it_counts_draws_compares_and_fits(
        self, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        explore.main(["--data", str(street), "--out", str(tmp_path), "--fit-anchors", "--json"])
        told = json.loads(capsys.readouterr().out)
        dataset = load_dataset(DataSource.from_folder(street))
        assert told["splits"]["train"]["boxes"] == dataset.train.num_boxes
        assert sum(told["splits"]["val"]["by_class"].values()) == dataset.val.num_boxes
        shares = [told["splits"]["train"][f"share_{size}"] for size in ("small", "medium", "large")]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        assert len(told["shift"]) == len(dataset.class_names) + 7
        page = (tmp_path / "index.html").read_text()
        for name in ("class_counts", "boxes_per_image", "sizes", "aspect_ratios", "centres"):
            assert Image.open(tmp_path / f"{name}.png").width > 400
            assert TITLES[name] in page
        found = told["anchors"]
        assert 0.0 <= found["configured"]["all"]["matched"] <= 1.0
        by_class = found["proposed"]["by_class"].values()
        assert sum(row["boxes"] for row in by_class) == found["proposed"]["all"]["boxes"] == dataset.train.num_boxes
        assert len(found["proposed"]["anchor_sizes"]) == 4, "a size a level"

    def test_proposed_anchors_reach_boxes_that_hand_made_ones_do_not(
        self, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "config.yaml"
        config.write_text(
            yaml.safe_dump({**TINY, "image_size_px": [128, 512], "anchor_sizes": 150.0, "match_iou_high": 0.4})
        )
        arguments = [
            "--data",
            str(street),
            "--out",
            str(tmp_path / "out"),
            "--fit-anchors",
            "--json",
            "--config",
            str(config),
        ]
        explore.main(arguments)
        found = json.loads(capsys.readouterr().out)["anchors"]
        assert found["configured"]["anchor_sizes"] == 150.0
        assert found["configured"]["all"]["matched"] < 0.05
        assert found["proposed"]["all"]["matched"] > 0.5

    def test_mistakes(self, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        base = ["--data", str(street), "--out", str(tmp_path)]
        assert "file name" in refused(explore.main, [*base, "--sequence", "drive"], capsys)
        assert "is no space" in refused(explore.main, [*base, "--fit-anchors", "--space", "nope"], capsys)


class TestProfile:
    def test_parameters_of_the_whole_chain(self, capsys: pytest.CaptureFixture[str]) -> None:
        profile.main(["--space", "tdt4265_report", "--profile", "gpu", "--parameters", "--json"])
        rows = {row["step"]: row for row in json.loads(capsys.readouterr().out)}
        assert rows["baseline"]["trainable_parameters"] == rows["baseline"]["report_parameters"] == 2_590_880
        assert rows["+adam"]["trainable_parameters"] == 45_886_178
        assert "ms_per_batch" not in rows["baseline"]

    def test_speed_flops_memory_and_data_loading_of_a_config(
        self, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "tiny.yaml"
        config.write_text(yaml.safe_dump(TINY))
        arguments = ["--config", str(config), "--data", str(street), "--batch-size", "2", "--threads", "1", "--json"]
        profile.main([*arguments, "--warmup", "1", "--repeats", "3"])
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["batch_size"], row["warmup_batches"], row["timed_batches"]) == (2, 1, 3)
        assert row["images_per_s"] == pytest.approx(2000 / row["ms_per_batch"], rel=1e-2)
        assert row["data_images_per_s"] > 0
        assert row["peak_memory_mib"] > 0

    def test_flops_of_a_convolution_by_hand(self) -> None:
        # 16 x 3 x 3 x 8 multiply-adds at each of 10 x 12 places, two operations each.
        assert (
            profile.count_flops(torch.nn.Conv2d(8, 16, 3, padding=1, bias=False), torch.zeros(1, 8, 10, 12))
            == 2 * 16 * 72 * 120
        )

    def test_mistakes(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "at least 1" in refused(profile.main, ["--space", "smoke", "--repeats", "0"], capsys)
        assert "is no space" in refused(profile.main, ["--space", "smoky"], capsys)


def test_class_weights_of_another_number_than_the_scores_are_refused() -> None:
    config = DetectorConfig(**{**TINY, "focal_alpha": (0.5, 0.5, 0.5)})
    with pytest.raises(ValueError, match=r"a weight for each of 8 scores \(the classes\), got 3"):
        Detector(config, 8)
    softmax = config.with_values({"class_scores": "softmax"})
    with pytest.raises(ValueError, match=r"each of 9 scores \(the classes, then background\), got 3"):
        Detector(softmax, 8)


def test_predict_without_images_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(predict.main, ["--checkpoint", str(checkpoints["bifpn"]), "--out", str(tmp_path)], capsys)
    assert "--images must name" in said
    said = refused(predict.main, ["--compare", str(tmp_path), "--out", str(tmp_path)], capsys)
    assert "must be a study folder" in said
