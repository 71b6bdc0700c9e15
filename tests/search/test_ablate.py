"""A whole ablation through the real command line: a user's own chain, its table, its pictures, more seeds."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SPACE = """
include: smoke
chain:
  - {name: +giou, change: {box_loss: giou}}
  - {name: +more, change: {train_split: extended}}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a street that has an extended split, and the space above."""
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "mine.yaml").write_text(SPACE)
    told = call(
        folder,
        "detector.data.lidar",
        "--out",
        "street",
        "--train",
        "16",
        "--val",
        "8",
        "--extended",
        "8",
        "--degrees",
        "180",
    )
    assert told.returncode == 0, told.stderr
    return folder


def call(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "220"}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def ablate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call(folder, "search.ablate", "--space", "mine.yaml", "--profile", "cpu", *arguments)


@pytest.fixture(scope="module")
def first(work: Path) -> subprocess.CompletedProcess[str]:
    return ablate(work, "--data", "street", "--name", "a", "--seeds", "1", "--epochs", "1")


def rows_of(work: Path) -> list[dict[str, Any]]:
    with (work / "runs/a/results/ablation.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_trains_every_step_and_leaves_the_table(work: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 0, first.stdout + first.stderr
    rows = rows_of(work)
    assert [row["step"] for row in rows] == ["base", "+giou", "+more"]
    assert [row["changed"] for row in rows] == ["-", "box_loss=giou", "train_split=extended"]
    assert {row["n"] for row in rows} == {"1"}
    assert all(int(row["parameters"]) > 1000 and float(row["ms_per_batch"]) > 0 for row in rows)
    assert (work / "runs/a/results/ablation.tex").is_file()
    plan = json.loads((work / "runs/a/study.json").read_text())
    assert (plan["dataset"]["train_images"], plan["dataset"]["extended_images"]) == (16, 24)


def test_it_prints_plan_steps_table_and_what_can_be_done_next(first: subprocess.CompletedProcess[str]) -> None:
    said = first.stdout
    assert "3 steps x 1 seeds" in said
    assert "step  +giou: box_loss=giou" in said
    assert "trial   2" in said
    assert "+giou seed 0" in said
    assert "steps, each on top of the one above" in said
    assert "python -m search.ablate --space mine.yaml --resume --name a --seeds 2" in said
    assert "3 trials: 3 finished" in said


def test_each_step_was_trained_on_its_own_data(work: Path, first: subprocess.CompletedProcess[str]) -> None:
    configs = {}
    for path in (work / "runs/a/trials").glob("*/config.json"):
        config = json.loads(path.read_text())
        configs[(config["box_loss"], config["train_split"])] = config
    assert set(configs) == {("smooth_l1", "train"), ("giou", "train"), ("giou", "extended")}


def test_more_seeds_extend_it(work: Path, first: subprocess.CompletedProcess[str]) -> None:
    told = call(work, "search.ablate", "--resume", "--name", "a", "--seeds", "2")  # its folder knows its space
    assert told.returncode == 0, told.stdout + told.stderr
    rows = rows_of(work)
    assert {row["n"] for row in rows} == {"2"}
    assert rows[1]["delta"] != ""


def test_the_same_images_through_every_step(work: Path, first: subprocess.CompletedProcess[str]) -> None:
    told = call(work, "detector.predict", "--compare", "runs/a", "--out", "sheets", "--json")
    assert told.returncode == 0, told.stderr
    rows = json.loads(told.stdout)
    assert {row["step"] for row in rows} == {"base", "+giou", "+more"}
    sheets = sorted((work / "sheets").glob("*.png"))
    assert len(sheets) == len({row["file_name"] for row in rows}) == 4
    assert Image.open(sheets[0]).height == 4 * (128 * 2 + 14)  # ground truth and three steps


def test_the_changes_from_the_base_to_a_trial_are_trained_for_real(work: Path) -> None:
    searched = call(
        work, "search.run", "--space", "smoke", "--data", "street", "--profile", "cpu", "--name", "s", "--trials", "7", "--epochs", "1",
    )  # fmt: skip
    assert searched.returncode == 0, searched.stdout + searched.stderr
    with (work / "runs/s/results/leaderboard.csv").open() as file:
        other = next(row for row in csv.DictReader(file) if row["number"] == "5")
    told = call(
        work, "search.ablate", "--path", "base", other["trial"], "--study", "runs/s", "--name", "p", "--seeds", "1"
    )
    assert told.returncode == 0, told.stdout + told.stderr
    with (work / "runs/p/results/ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["step"] == "base"
    assert len(rows) >= 2
    assert {row["n"] for row in rows} == {"1"}
    with (work / "runs/p/results/leaderboard.csv").open() as file:
        trained = {row["config"]: row for row in csv.DictReader(file)}
    assert trained[other["config"]]["step"] == rows[-1]["step"], "the last step is that trial's configuration"
    assert {row["seed"] for row in trained.values()} == {"1"}, "not the seed that it was picked by"
    again = call(work, "search.ablate", "--space", "smoke", "--resume", "--name", "p", "--seeds", "2")
    assert again.returncode == 0, again.stdout + again.stderr
    page = (work / "runs/p/results/report.html").read_text()
    assert "What each step added" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--space", "retinanet", "--data", "street"], "--space retinanet has no chain of steps to ablate; there is one in tdt4265_report"),
        (["--space", "mine.yaml", "--data", "street", "--set", "box_loss=giou"], "the step +giou changes that field"),
        (["--space", "mine.yaml", "--data", "street", "--seeds", "0"], "--seeds must be positive"),
        (["--path", "base", "best", "--study", "street"], "street must be a study folder"),
        (["--path", "base", "best", "--runs-dir", "nowhere"], "there is no search in nowhere"),
        (["--space", "mine.yaml", "--data", "street", "--extended-annotations", "street/val.json"], "must not be in val.json too"),
        (["--space", "mine.yaml", "--extended-annotations", "street/val.json"], "--extended-annotations adds to the data of --data"),
        (["--space", "mine.yaml", "--data", "street", "--set", "anchor_sizes=400.0"], "anchors must be able to match"),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_message_and_exit_2(work: Path, arguments: list[str], said: str) -> None:
    told = call(work, "search.ablate", *arguments, "--profile", "cpu")
    assert told.returncode == 2, told.stdout
    assert said in told.stderr
    assert "Traceback" not in told.stderr


def test_a_search_does_not_resume_an_ablation(work: Path, first: subprocess.CompletedProcess[str]) -> None:
    told = call(work, "search.run", "--space", "mine.yaml", "--resume", "--name", "a")
    assert told.returncode == 2
    assert "is an ablation; go on with it by python -m search.ablate" in told.stderr
