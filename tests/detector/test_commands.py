"""Command lines of the detector: what a run leaves, and that a user's mistake is one line and exit status 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from detector import evaluate, predict, train
from detector.commands import CommandError, command, read_json_file
from detector.config import ConfigError, DetectorConfig
from detector.data import convert, lidar
from detector.data.batches import load_training_data
from detector.data.coco import load_dataset
from detector.data.dataset import DataError, DataSource
from detector.trainer import Trainer

REPO = Path(__file__).resolve().parents[2]
TINY: dict[str, Any] = {
    "image_size_px": [64, 256], "trunk_width": 0.1, "neck_levels": [3, 4], "neck_channels": 8, "head_channels": 8,
    "head_depth": 0, "extra_levels": 1, "anchor_scales": [1.0], "batch_size": 2, "schedule_epochs": 2,
    "steps_per_epoch": 2, "lr": 0.005, "flip_probability": 0.5, "precision": "fp32", "score_threshold": 0.0,
    "max_detections": 20,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _own_cache_and_threads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and four validation images of half a turn."""
    out = tmp_path_factory.mktemp("data") / "street"
    lidar.main(["--out", str(out), "--train", "6", "--val", "4", "--degrees", "180", "--seed", "1", "--processes", "1"])
    return out


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def trained(street: Path, config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two epochs of training leave."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train.main(train_arguments(config_file, street, out))
    return out


def train_arguments(config: Path, data: Path, out: Path, *more: str) -> list[str]:
    return ["--config", str(config), "--data", str(data), "--out", str(out), "--threads", "1", "--device", "cpu", *more]


Main = Callable[[list[str]], None]


def refused(main: Main, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one `error:` line with which a command leaves; its exit status is 2 and it prints nothing else."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = capsys.readouterr()
    assert left.value.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    return said.err


def losses(out: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


# train


def test_train_leaves_checkpoints_metrics_and_its_config(trained: Path) -> None:
    assert {"checkpoint.pt", "best.pt", "metrics.jsonl", "config.yaml"} <= {path.name for path in trained.iterdir()}
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all({"mAP", "AP50"} <= set(row["metrics"]) for row in rows)
    assert train.read_config(trained / "config.yaml") == DetectorConfig.from_dict(TINY)


def test_train_learns_the_same_from_images_that_are_not_decoded_before(
    trained: Path, street: Path, config_file: Path, tmp_path: Path
) -> None:
    train.main(train_arguments(config_file, street, tmp_path / "run", "--cache", "auto", "--cache-limit", "0"))
    assert losses(tmp_path / "run") == losses(trained)


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--cache", "all"], "--cache must be one of auto, decoded"), (["--cache-limit", "-2"], "--cache-limit must be")],
)
def test_train_refuses_a_way_to_keep_images_that_there_is_not(
    street: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert message in refused(train.main, train_arguments(config_file, street, tmp_path / "run", *more), capsys)


def test_train_json_is_one_object_about_the_best_epoch(
    street: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(train_arguments(config_file, street, tmp_path / "run", "--epochs", "1", "--json"))
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert said.out.count("\n") == 1
    assert (told["epochs"], told["best_epoch"]) == (1, 1)
    assert {"mAP", "AP50", "AP_small", "per_class", "seconds", "checkpoint"} <= set(told)
    assert Path(told["checkpoint"]).is_file()
    assert "epoch   1/1" in said.err
    assert torch.load(told["checkpoint"], weights_only=True)["history"][0]["metrics"]["mAP"] == told["mAP"]


def test_train_goes_on_where_it_stopped_as_if_it_never_had(
    trained: Path, street: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train.main(train_arguments(config_file, street, out, "--epochs", "1"))
    assert losses(out) == losses(trained)[:1]
    capsys.readouterr()
    train.main(train_arguments(config_file, street, out))
    assert "going on after epoch 1" in capsys.readouterr().err
    assert losses(out) == losses(trained)
    assert losses(out)[0] != losses(out)[1]
    train.main(train_arguments(config_file, street, out))  # nothing is left to do
    assert losses(out) == losses(trained)


def test_the_seed_reaches_the_training(trained: Path, street: Path, config_file: Path, tmp_path: Path) -> None:
    train.main(train_arguments(config_file, street, tmp_path / "run", "--epochs", "1", "--seed", "5"))
    assert losses(tmp_path / "run") != losses(trained)[:1]


def test_train_refuses_to_go_on_with_another_config(
    trained: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**TINY, "lr": 0.01}))
    before = (trained / "config.yaml").read_text()
    assert "a checkpoint goes on with its own config" in refused(
        train.main, train_arguments(other, street, trained), capsys
    )
    assert (trained / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("focal_gama: 2.0", 'Did you mean "focal_gamma"?'),
        ("lr: fast", "DetectorConfig.lr must be"),
        ("lr: -1", "DetectorConfig.lr must lie in"),
        ("- lr", "must be a mapping of DetectorConfig fields, got a list"),
        ("", "must be a mapping of DetectorConfig fields, got a NoneType"),
        ("lr: [", "must be YAML or JSON"),
        (None, "must be a readable file"),
    ],
)
def test_a_wrong_config_is_one_line(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    config = tmp_path / "config.yaml"
    if text is not None:
        config.write_text(text)
    said = refused(train.main, train_arguments(config, street, tmp_path / "run"), capsys)
    assert message in said
    if "YAML" not in message:  # a YAML parser tells place and context in lines of its own
        assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_config_that_is_no_text_is_one_line(street: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(train.main, train_arguments(trained / "best.pt", street, trained / "x"), capsys)


def test_a_negative_number_of_epochs_is_one_line(
    street: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(train.main, train_arguments(config_file, street, tmp_path / "run", "--epochs", "-1"), capsys)


def test_an_unknown_device_is_one_line(
    street: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(train.main, [*train_arguments(config_file, street, tmp_path / "run"), "--device", "abacus"], capsys)


def test_an_out_that_is_a_file_is_one_line(
    street: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("mine")
    refused(train.main, train_arguments(config_file, street, tmp_path / "run"), capsys)


def test_a_diverging_config_is_one_line(street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    wild = {"optimizer": "sgd", "lr": 100.0, "warmup_epochs": 0.0, "clip_norm": 0, "steps_per_epoch": 12}
    config.write_text(yaml.safe_dump({**TINY, **wild}))
    refused(train.main, train_arguments(config, street, tmp_path / "run"), capsys)


def test_data_that_is_missing_is_one_line(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(train.main, train_arguments(config_file, tmp_path / "nowhere", tmp_path / "run"), capsys)
    assert "must be a folder with train.json, val.json and images/" in said
    assert said.count("\n") == 1


def test_bad_data_is_named_and_can_be_skipped(
    street: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(street / "images")
    for split in ("train", "val"):
        content = json.loads((street / f"{split}.json").read_text())
        content["annotations"][0]["bbox"] = [0, 0, 0, 5]
        (data / f"{split}.json").write_text(json.dumps(content))
    arguments = train_arguments(config_file, data, tmp_path / "run", "--epochs", "1")
    said = refused(train.main, arguments, capsys)
    assert "a bbox must have positive width and height (1): annotation 1" in said
    train.main([*arguments, "--skip-bad"])
    assert len(losses(tmp_path / "run")) == 1


def test_roll_on_half_a_turn_is_refused(street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**TINY, "roll_probability": 0.5}))
    assert "full turn" in refused(train.main, train_arguments(config, street, tmp_path / "run"), capsys)


# predict


def predict_arguments(trained: Path, street: Path, out: Path, *more: str) -> list[str]:
    images = [str(street / "images" / f"val_{n:05d}.png") for n in range(2)]
    return ["--checkpoint", str(trained / "best.pt"), "--images", *images, "--out", str(out), "--device", "cpu", *more]


def test_predict_leaves_a_picture_an_image_and_coco_detections(
    trained: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    predict.main(predict_arguments(trained, street, tmp_path / "out", "--json"))
    printed = capsys.readouterr().out
    rows = json.loads(printed)
    assert printed.count("\n") == 1
    assert rows == json.loads((tmp_path / "out/detections.json").read_text())
    assert {row["image_id"] for row in rows} == {1, 2}
    assert len(rows) <= 2 * TINY["max_detections"]
    for row in rows:
        x, y, w, h = row["bbox"]  # in the image's own 512 x 128 pixels, not the canvas's 256 x 64
        assert 0 <= x <= x + w <= 512 + 1e-6
        assert 0 <= y <= y + h <= 128 + 1e-6
        assert 1 <= row["category_id"] <= 8
        assert 0 <= row["score"] <= 1
        assert row["file_name"] == f"val_{row['image_id'] - 1:05d}.png"
    assert max(row["bbox"][0] + row["bbox"][2] for row in rows) > 256
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        "0001_val_00000.png",
        "0002_val_00001.png",
    ]
    with Image.open(tmp_path / "out/0001_val_00000.png") as picture:
        assert picture.size == (1024, 256)  # enlarged to at least 600 pixels


def test_predictions_equal_the_trainers_own_evaluation(trained: Path, street: Path, tmp_path: Path) -> None:
    """Letterboxing, normalising and the way back to original pixels are written twice; both must come to the same."""
    predict.main(predict_arguments(trained, street, tmp_path / "out"))
    rows = json.loads((tmp_path / "out/detections.json").read_text())
    state = torch.load(trained / "best.pt", weights_only=True)
    config = DetectorConfig.from_dict(state["config"])
    trainer = Trainer(config, load_training_data(street, config.image_size_px), seed=0, device="cpu")
    trainer.model.load_state_dict(state["model"])
    expected = [row for row in trainer.evaluate()[1] if row["image_id"] <= 2]  # image ids are positions in val.json
    assert len(rows) == len(expected) == 2 * TINY["max_detections"]
    for ours, theirs in zip(rows, expected, strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=0.05)


def test_the_threshold_decides_what_is_drawn_not_what_is_told(trained: Path, street: Path, tmp_path: Path) -> None:
    pictures, told = [], []
    for number, threshold in enumerate(("0", "1")):
        out = tmp_path / str(number)
        predict.main(predict_arguments(trained, street, out, "--threshold", threshold))
        pictures.append((out / "0001_val_00000.png").read_bytes())
        told.append((out / "detections.json").read_text())
    assert told[0] == told[1]
    assert json.loads(told[0])
    assert pictures[0] != pictures[1]


def test_predict_takes_one_image_of_any_size_and_kind(trained: Path, tmp_path: Path) -> None:
    Image.new("L", (301, 77), 90).save(tmp_path / "grey one.png")
    predict.main(
        ["--checkpoint", str(trained / "best.pt"), "--images", str(tmp_path / "grey one.png"), "--out",
         str(tmp_path / "out"), "--device", "cpu"]
    )  # fmt: skip
    assert (tmp_path / "out/grey one.png").is_file()
    for row in json.loads((tmp_path / "out/detections.json").read_text()):
        assert row["bbox"][0] + row["bbox"][2] <= 301 + 1e-6
        assert row["bbox"][1] + row["bbox"][3] <= 77 + 1e-6


def test_a_bad_checkpoint_is_one_line(
    trained: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = predict_arguments(trained, street, tmp_path / "out")
    torn = tmp_path / "torn.pt"
    torn.write_bytes((trained / "best.pt").read_bytes()[:1000])
    foreign = tmp_path / "foreign.pt"
    torch.save({"model": {}}, foreign)
    for bad in (torn, foreign, tmp_path / "nowhere.pt", trained / "config.yaml"):
        arguments[1] = str(bad)
        said = refused(predict.main, arguments, capsys)
        assert f"--checkpoint {bad}: must be a checkpoint of detector.train" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_images_that_are_missing_empty_or_broken_are_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name, message in (
        ("nowhere", "there is no such file or folder"), ("empty", "no image"), ("broken.png", "must be a readable image"),
    ):  # fmt: skip
        arguments = ["--checkpoint", str(trained / "best.pt"), "--images", str(tmp_path / name), "--out",
                     str(tmp_path / "out"), "--device", "cpu"]  # fmt: skip
        said = refused(predict.main, arguments, capsys)
        assert message in said
        assert said.count("\n") == 1


# lidar


def test_lidar_writes_a_folder_that_loads_and_says_so_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--train", "2", "--val", "1", "--test", "1", "--degrees", "180", "--seed", "4", "--processes", "1"]
    lidar.main(["--out", str(tmp_path / "s"), *arguments])
    said = capsys.readouterr()
    assert said.out == ""
    assert "2 train, 1 val, 1 test images of 128 x 512 pixels" in said.err
    dataset = load_dataset(DataSource.from_folder(tmp_path / "s"))
    assert [len(split.images) for split in dataset.splits] == [2, 1, 1]
    assert not (tmp_path / "s/extended.json").exists()


@pytest.mark.parametrize("counts", [["--train", "-1"], ["--train", "0", "--val", "0"]])
def test_lidar_refuses_counts_that_make_no_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], counts: list[str]
) -> None:
    said = refused(lidar.main, ["--out", str(tmp_path / "s"), *counts], capsys)
    assert "must be counts of images" in said
    assert not (tmp_path / "s").exists()


def test_lidar_and_convert_refuse_a_folder_that_holds_something(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for main, arguments in (
        (lidar.main, ["--train", "1", "--val", "1"]), (convert.main, ["--from", "yolo", str(tmp_path)]),
    ):  # fmt: skip
        said = refused(main, [*arguments, "--out", str(street)], capsys)
        assert "--out must be a new or empty folder" in said
        assert said.count("\n") == 1


def test_convert_refuses_what_is_no_yolo_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(convert.main, ["--from", "yolo", str(tmp_path), "--out", str(tmp_path / "out")], capsys)
    assert "must name its classes in classes.txt or data.yaml" in said
    assert said.count("\n") == 1


# All of them


@pytest.mark.parametrize("main", [train.main, predict.main, evaluate.main, lidar.main, convert.main])
def test_help_is_printed_and_a_missing_option_is_exit_two(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "python -m detector." in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2


def module(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=REPO, capture_output=True, text=True, timeout=300,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)}, check=False,
    )  # fmt: skip


def test_evaluate_as_a_process(street: Path, tmp_path: Path) -> None:
    truth = json.loads((street / "val.json").read_text())
    rows = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.9}
        for row in truth["annotations"]
    ]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    arguments = ["detector.evaluate", "--annotations", str(street / "val.json"), "--detections"]
    right = module(*arguments, str(tmp_path / "found.json"), "--json", cache=tmp_path)
    assert (right.returncode, right.stderr) == (0, "")
    assert json.loads(right.stdout)["mAP"] == pytest.approx(1)
    wrong = module(*arguments, str(tmp_path / "nowhere.json"), "--json", cache=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: ")
    assert wrong.stderr.count("\n") == 1


def test_train_as_a_process_shows_no_traceback(street: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("focal_gama: 2.0\n")
    wrong = module("detector.train", *train_arguments(config, street, tmp_path / "run"), cache=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: ")
    assert wrong.stderr.count("\n") == 1
    assert 'Did you mean "focal_gamma"?' in wrong.stderr


@pytest.mark.parametrize("error", [ConfigError, DataError, CommandError])
def test_our_own_errors_become_one_line(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, command():
        raise error("rule, value, remedy")
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: rule, value, remedy\n"


def test_our_own_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), command():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("content", "kind", "expected"), [('{"a": 1}', dict, {"a": 1}), ("[1]", list, [1]), ("\ufeff[]", list, [])]
)
def test_read_json_file_gives_what_was_asked_for(tmp_path: Path, content: str, kind: type, expected: Any) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    assert read_json_file(path, kind) == expected


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00\x81", b"3"])
def test_read_json_file_refuses_the_rest(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json: must"):
        read_json_file(path, dict)
