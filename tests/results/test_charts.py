"""What the plots show: values of the hand-written study, both ways of drawing, and what is left out where nothing is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results.charts import charts
from results.confusion import confusion_of, pair
from results.draw_matplotlib import drawn
from results.draw_plotly import figure
from results.evidence import Evidence
from results.gallery import examples
from results.marks import Bars, Chart, Heat, Line, Parallel, Points
from results.plots import main


def by_name(folder: Path) -> dict[str, Chart]:
    return {chart.name: chart for chart in charts(Evidence(folder))}


class TestCharts:
    def test_learning_curves_name_the_best_dash_the_base_and_mark_promotions(self, study: Path) -> None:
        chart = by_name(study)["curves"]
        lines = [mark for mark in chart.marks if isinstance(mark, Line)]
        best = next(line for line in lines if "best" in line.name)
        assert list(best.y) == [0.15, 0.25, 0.32, 0.35, 0.38, 0.42, 0.41, 0.40, 0.40]
        assert [line.y[0] for line in lines if line.dashed] == [0.10], "the base"
        (promoted,) = [mark for mark in chart.marks if isinstance(mark, Points)]
        assert sorted(zip(promoted.x, promoted.y, strict=True)) == [(1, 0.10), (1, 0.15), (3, 0.32)]
        assert chart.vertical_lines == [1, 3, 9]

    def test_best_so_far_rises_and_ends_with_all_compute(self, study: Path) -> None:
        line = by_name(study)["best_so_far"].marks[0]
        assert isinstance(line, Line)
        assert list(line.y) == sorted(line.y)
        assert line.y[-1] == 0.42
        assert line.x[-1] == pytest.approx(14 * 2.0 / 60)

    def test_an_ablations_waterfall_stands_on_the_step_above(self, chain: Path) -> None:
        (bars,) = by_name(chain)["waterfall"].marks
        assert isinstance(bars, Bars)
        assert bars.starts == [0.0, pytest.approx(0.12), pytest.approx(0.14)]
        assert bars.values[1] == pytest.approx(0.02)
        assert bars.low[1] < bars.values[1] < bars.high[1]

    def test_precision_and_recall_end_at_ap50(self, seen: Path) -> None:
        evidence = Evidence(seen)
        found = evidence.matches("best0002")
        assert found is not None
        at_half = [m for m in by_name(seen)["precision_recall"].marks if isinstance(m, Line)]
        weights = np.ones((1, found.num_images), dtype=np.int64)
        from results.matching import average_precision

        for k, line in enumerate(at_half):
            assert np.mean(line.y) == pytest.approx(average_precision(found.classes[k], weights)[0, 0])

    def test_bars_of_a_comparison_with_the_first_all_start_where_it_ends(self, chain: Path) -> None:
        plan = json.loads((chain / "study.json").read_text())
        (chain / "study.json").write_text(json.dumps({**plan, "compare": "first"}))
        (bars,) = by_name(chain)["waterfall"].marks
        assert isinstance(bars, Bars)
        assert bars.starts == [0.0, pytest.approx(0.12), pytest.approx(0.12)]
        assert bars.values == [pytest.approx(0.12), pytest.approx(0.02), pytest.approx(0.12 - 0.135)]

    def test_trials_without_a_field_stand_below_all_that_have_it(self, seen: Path) -> None:
        from results.field_charts import _axis

        axis = _axis("sgd_momentum", [0.8, None, 0.9])
        assert axis.values[1] < 0.8
        assert list(zip(axis.places, axis.options, strict=True))[0] == (axis.values[1], "-")

    def test_without_detections_there_is_neither_curve_nor_confusion(self, study: Path) -> None:
        assert not {"precision_recall", "confusion"} & by_name(study).keys()


class TestDrawing:
    @pytest.mark.parametrize("where", ["seen", "chain"])
    def test_every_chart_can_be_drawn_both_ways(self, where: str, request: pytest.FixtureRequest) -> None:
        for chart in charts(Evidence(request.getfixturevalue(where))):
            told = json.loads(figure(chart))
            assert len(told["data"]) == len(chart.marks)
            assert drawn(chart, "png").startswith(b"\x89PNG")
            assert b"<svg" in drawn(chart, "svg")

    def test_nothing_that_is_no_number_reaches_the_page(self) -> None:
        chart = Chart("x", "x", [Line([1, 2], [0.1, math.nan], "a", "#000000")])
        assert json.loads(figure(chart))["data"][0]["y"] == [0.1, None]

    def test_parallel_axes_carry_their_options(self) -> None:
        from results.marks import Axis

        chart = Chart("p", "p", [Parallel([Axis("loss", [0.0, 1.0], ["giou", "l1"])], [0.1, 0.2], "mAP")])
        assert json.loads(figure(chart))["data"][0]["dimensions"][0]["ticktext"] == ["giou", "l1"]

    def test_a_heat_map_has_its_first_row_on_top(self) -> None:
        told = json.loads(figure(Chart("h", "h", [Heat(["a"], ["a", "b"], [[1], [0]])])))
        assert told["layout"]["yaxis"]["autorange"] == "reversed"
        assert told["data"][0]["text"] == [["1"], [""]]


class TestConfusion:
    def test_pairs_by_hand(self) -> None:
        """Two truths; a detection on the first, one on the second that overlaps less than a better one, one on nothing."""
        truths = [{"bbox": [0, 0, 10, 10]}, {"bbox": [20, 0, 10, 10]}]
        found = [
            {"bbox": [0, 0, 10, 9]},
            {"bbox": [21, 0, 10, 10]},
            {"bbox": [20, 0, 10, 10]},
            {"bbox": [50, 50, 5, 5]},
        ]
        assert sorted(pair(truths, found)) == [(0, 0), (1, 2)]

    def test_rows_sum_to_the_boxes_of_each_class(self, seen: Path) -> None:
        evidence = Evidence(seen)
        counts = confusion_of(evidence, evidence.state.trials["best0002"])
        assert counts is not None
        assert evidence.ground_truth is not None
        for label in (1, 2):
            boxes = [r for r in evidence.ground_truth["annotations"] if r["category_id"] == label and not r["iscrowd"]]
            assert counts[label - 1].sum() == len(boxes)
        assert counts[2, 2] == 0


class TestGallery:
    def test_pictures_of_what_was_found_and_missed(self, seen: Path, tmp_path: Path) -> None:
        plan = json.loads((seen / "study.json").read_text())
        plan["source"]["val"] = [plan["source"]["val"][0], str(tmp_path)]
        (seen / "study.json").write_text(json.dumps(plan))
        for number in range(1, 97):
            Image.new("RGB", (100, 100), "#303030").save(tmp_path / f"{number}.png")
        evidence = Evidence(seen)
        shown = examples(evidence, evidence.state.trials["best0002"])
        assert {example.kind for example in shown} <= {"found", "false alarms", "misses"}
        assert len(shown) >= 3
        assert all(example.jpeg.startswith(b"\xff\xd8") for example in shown)
        assert len({example.file_name for example in shown}) == len(shown), "an image is shown once"

    def test_moved_data_leave_no_picture_and_no_error(self, seen: Path) -> None:
        evidence = Evidence(seen)
        assert examples(evidence, evidence.state.trials["best0002"]) == []


class TestCommand:
    def test_writes_a_file_a_plot(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main([str(study), "--format", "svg"])
        names = {Path(line).name for line in capsys.readouterr().out.splitlines()}
        assert {"curves.svg", "best_so_far.svg", "classes.svg"} <= names
        assert all((study / "results" / "plots" / name).is_file() for name in names)

    def test_no_study_exits_with_2(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main([str(tmp_path)])
        assert ended.value.code == 2
        assert "must be a study folder" in capsys.readouterr().err
