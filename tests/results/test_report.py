"""results/ of a hand-made study: every promised file, a page without a network, and a best.yaml that trains."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from detector.config import DetectorConfig
from results.draw_plotly import plotly_library
from results.report import main, write_results
from tests.results.conftest import BASE, TRIALS, Story


@pytest.fixture
def written(study: Path) -> Path:
    write_results(study)
    return study


def test_every_promised_file_is_there(written: Path) -> None:
    names = {path.name for path in (written / "results").iterdir()}
    assert names >= {
        "leaderboard.csv",
        "leaderboard.md",
        "configs.csv",
        "configs.md",
        "summary.json",
        "curves.png",
        "report.html",
    }
    assert (written / "results" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with (written / "results" / "leaderboard.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(TRIALS)
    assert json.loads((written / "results" / "summary.json").read_text())["best"]["trial"] == "best0002"


def test_best_is_the_top_row_of_configs_and_a_config(written: Path) -> None:
    with (written / "results" / "configs.csv").open() as file:
        top = next(csv.DictReader(file))
    best = DetectorConfig.from_dict(yaml.safe_load((written / "best.yaml").read_text()))
    assert best == BASE.with_values(TRIALS["best0002"][0])
    assert best.hash() == top["config"]
    assert "best0002" in (written / "best.yaml").read_text().splitlines()[0]


def test_the_page_needs_no_network(written: Path) -> None:
    """The plotting library stands in the page; what it could load for maps is never asked for."""
    page = (written / "results" / "report.html").read_text().replace(plotly_library(), "")
    linked = re.findall(r"""(?:src|href|action)\s*=\s*["']?([^"'>\s]*)""", page)
    assert linked, "the contents at least"
    assert all(target.startswith(("data:", "#")) for target in linked)
    assert not re.search(r"https?://|//cdn|@import|url\(", page)


def test_links_of_the_contents_lead_somewhere(written: Path) -> None:
    page = (written / "results" / "report.html").read_text()
    targets = re.findall(r'href="#([^"]+)"', page)
    assert len(targets) > 5
    assert set(targets) <= set(re.findall(r'<section id="([^"]+)"', page))


def test_every_plot_is_json_that_a_browser_reads(written: Path) -> None:
    page = (written / "results" / "report.html").read_text()
    plots = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(plots) >= 4
    for text in plots:
        content = json.loads(text.replace("<\\/", "</"))
        assert content["data"]
        assert {"xaxis", "yaxis"} <= content["layout"].keys()


def test_the_page_tells_the_story(written: Path) -> None:
    page = (written / "results" / "report.html").read_text()
    for words in (
        "best: mAP 0.420",
        "best0002",
        "1 finished, 2 pruned, 1 failed, 1 diverged, 1 stopped",
        "loss became nan at step 7",
    ):
        assert words in page


def test_names_are_escaped(written: Path) -> None:
    page = (written / "results" / "report.html").read_text()
    assert "hand-made &lt;b&gt;&amp;&lt;/b&gt;" in page
    assert "<b>&</b>" not in page


def test_written_twice_is_written_alike(written: Path) -> None:
    before = {path.name: path.read_bytes() for path in (written / "results").iterdir() if path.suffix != ".png"}
    shutil.rmtree(written / "results")
    write_results(written)
    assert {path.name: path.read_bytes() for path in (written / "results").iterdir() if path.suffix != ".png"} == before


def test_a_study_without_a_score_has_tables_and_no_best(story: Story) -> None:
    story.create("base0001", {}, 1.0)
    story.train("base0001", [], 1, 1.0, "diverged", to=1)
    told = write_results(story.write()).summary
    assert told["best"] is None
    assert not (story.folder / "best.yaml").exists()
    assert "no trial has scored yet" in (story.folder / "results" / "report.html").read_text()


def test_an_empty_study_is_reported_too(story: Story) -> None:
    assert write_results(story.write()).summary["trials"] == 0
    assert (story.folder / "results" / "report.html").is_file()


class TestCommand:
    def test_rebuilds_results(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main([str(study)])
        assert "6 trials: 1 finished" in capsys.readouterr().err

    def test_a_folder_that_is_no_study_is_an_error(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            main([str(tmp_path)])
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")

    def test_a_bad_line_is_an_error_with_its_number(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lines = (study / "journal.jsonl").read_text().splitlines(keepends=True)
        (study / "journal.jsonl").write_text("".join([*lines[:4], "oops\n", *lines[4:]]))
        with pytest.raises(SystemExit) as stop:
            main([str(study)])
        assert stop.value.code == 2
        assert "line 5:" in capsys.readouterr().err
