"""The tables that people read: what stands in them, how it is rounded, and each form they are written in."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path

import pytest

from results.evidence import Evidence
from results.rendering import as_html, as_latex, as_markdown, as_rich, render
from results.table import main
from results.view import interval, interval_decimals, number
from results.views import p_value, star, views
from tests.results.conftest import Story

NAN = math.nan


class TestRounding:
    @pytest.mark.parametrize(
        ("low", "high", "decimals"),
        [(0.2, 0.4, 2), (0.30, 0.326, 3), (0.3, 0.306, 4), (0.3, 0.30001, 4), (0.1, 0.9, 2), (NAN, NAN, 3)],
    )
    def test_two_digits_of_the_half_width(self, low: float, high: float, decimals: int) -> None:
        assert interval_decimals(low, high) == decimals

    def test_numbers_and_intervals(self) -> None:
        assert number(0.31234, 0.2, 0.4) == "0.31"
        assert number(0.01234, signed=True) == "+0.012"
        assert number(NAN) == "-"
        assert interval(-0.012, 0.034, signed=True) == "-0.012 .. +0.034"
        assert interval(NAN, 0.1) == "-"

    def test_stars_and_p(self) -> None:
        assert [star(p) for p in (0.06, 0.05, 0.01, 0.001, NAN)] == ["", "*", "**", "***", ""]
        assert [p_value(p) for p in (0.0004, 0.001, 0.5, NAN)] == ["<0.001", "0.001", "0.500", "-"]


class TestRanking:
    def test_one_seed_each_is_told_as_what_it_is(self, study: Path) -> None:
        ranking = views(Evidence(study))[0]
        assert ranking.rows[0]["config"] == ranking.cells()[0][1]
        assert "95 % over seeds" not in ranking.columns
        assert "95 % over images" not in ranking.columns
        assert "the first is flattered" in ranking.caption
        assert "0123456789abcdef" in ranking.caption

    def test_with_matches_it_has_an_interval_over_images(self, seen: Path) -> None:
        ranking = views(Evidence(seen))[0]
        first = ranking.rows[0]
        assert first["images_low"] < first["images_high"]
        assert "bootstrap samples of the 96 validation images" in ranking.caption
        assert ranking.cells()[2][list(ranking.columns).index("95 % over images")] == "-", (
            "nothing was kept of that trial"
        )

    def test_images_may_be_drawn_by_sequence(self, seen: Path) -> None:
        by_image = views(Evidence(seen))[0].rows[0]
        by_sequence = views(Evidence(seen, "sequence"))[0]
        assert by_sequence.rows[0]["images_low"] != by_image["images_low"]
        assert "48 groups (sequence) of the 96 validation images" in by_sequence.caption

    def test_fresh_seeds_rank_with_their_interval_and_who_is_not_told_apart(self, finals: Path) -> None:
        ranking = views(Evidence(finals))[0]
        first, second = ranking.rows[:2]
        # b: .39 .40 .41, mean .40, interval .40 +- 4.3027 x .01 / sqrt(3)
        assert (first["mAP_mean"], first["seeds_low"]) == (
            pytest.approx(0.40),
            pytest.approx(0.40 - 0.024841, abs=1e-6),
        )
        assert first["optimism"] == pytest.approx(0.42 - 0.40)
        assert second["mAP_mean"] == pytest.approx(0.36)
        assert second["not_told_apart"], "gaps .02 .04 .06: t = 3.46 on 2 degrees of freedom, p = .074"
        assert ranking.cells()[1][0] == "2="
        assert "not told apart from the first" in ranking.caption


class TestOthers:
    def test_classes_have_their_boxes_and_the_bests_interval(self, seen: Path) -> None:
        classes = next(view for view in views(Evidence(seen)) if view.name == "classes")
        car = classes.rows[0]
        assert (car["class"], car["base"], car["best"]) == ("car", 0.30, 0.42)
        assert car["boxes"] > 0
        assert car["images_low"] < car["images_high"]
        assert classes.cells()[1][classes_column(classes.columns, "best")] == "-", "COCO's -1 is no score"

    def test_cost_counts_every_epoch_of_a_configuration(self, study: Path) -> None:
        cost = next(view for view in views(Evidence(study)) if view.name == "cost")
        assert (cost.rows[0]["epochs"], cost.rows[0]["seconds_per_epoch"]) == (9, 2.0)
        assert cost.rows[0]["minutes"] == pytest.approx(18 / 60)
        assert "peak GiB" not in cost.columns, "a study of before it was measured"

    def test_cost_tells_devices_apart(self, study: Path) -> None:
        lines = [json.loads(line) for line in (study / "journal.jsonl").read_text().splitlines()]
        best = next(view for view in views(Evidence(study)) if view.name == "cost").rows[0]["config"]
        trials = {r["trial"] for r in lines if r["event"] == "trial_created" and r["config_hash"] == best}
        for record in lines:
            if record["event"] == "epoch":
                slow = record["trial"] in trials and record["epoch"] > 3
                record |= {"device": "L4", "seconds": 8.0} if slow else {"device": "H100"}
                record["peak_gib"] = 5.0 + record["epoch"] / 4
        (study / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
        cost = next(view for view in views(Evidence(study)) if view.name == "cost")
        first, second = cost.rows[:2]
        assert first["config"] == second["config"] == best
        assert [(r["device"], r["epochs"], r["seconds_per_epoch"]) for r in (first, second)] == [
            ("H100", 3, 2.0),
            ("L4", 6, 8.0),
        ]
        assert "device" in cost.columns
        assert cost.caption.endswith("a row a device")
        assert "peak GiB: of a GPU's memory" in cost.caption
        # the highest of epochs 1 to 3, and of 4 to 9
        assert [row[list(cost.columns).index("peak GiB")] for row in cost.cells()[:2]] == ["5.75", "7.25"]

    def test_sizes_say_what_small_is(self, study: Path) -> None:
        sizes = next(view for view in views(Evidence(study)) if view.name == "sizes")
        assert "less than 32 x 32 pixels" in sizes.caption
        assert [row["what"] for row in sizes.rows] == ["base", "best"]

    def test_an_ablation_has_steps_for_a_ranking(self, chain: Path) -> None:
        found = views(Evidence(chain))
        assert [view.name for view in found] == ["ablation", "classes", "sizes", "cost"]
        steps = found[0]
        assert steps.bold == frozenset({1})
        assert steps.cells()[2][list(steps.columns).index("n")] == "1 (lacks 0)"
        assert "after Holm" in steps.caption


def classes_column(columns: object, name: str) -> int:
    return list(columns).index(name)  # type: ignore[call-overload]


class TestForms:
    def test_markdown_has_the_best_in_bold_and_the_caption(self, study: Path) -> None:
        ranking = views(Evidence(study))[0]
        lines = as_markdown(ranking).splitlines()
        assert len({line.count("|") for line in lines[: 2 + len(ranking.rows)]}) == 1
        assert lines[2].startswith("| **1** |")
        assert lines[-1] == ranking.caption + "."

    def test_csv_is_the_raw_rows(self, study: Path) -> None:
        ranking = views(Evidence(study))[0]
        rows = list(csv.DictReader(io.StringIO(render(ranking, "csv"))))
        assert [float(row["mAP_mean"]) for row in rows[:2]] == [0.42, 0.30]

    def test_latex_is_booktabs_and_escaped(self, chain: Path) -> None:
        text = as_latex(views(Evidence(chain))[0])
        assert r"\toprule" in text
        assert r"+deep\_heads" in text
        assert r"95 \%" in text
        body = text.split(r"\midrule")[1]
        assert body.count(r"\textbf{+giou}") == 1

    def test_html_escapes_what_users_named(self, study: Path) -> None:
        text = as_html(views(Evidence(study))[0])
        assert "<b>&</b>" not in text
        assert "hand-made &lt;b&gt;" in text

    def test_the_terminal_shows_every_cell(self, study: Path) -> None:
        from rich.console import Console

        console = Console(width=200, record=True, file=io.StringIO())
        ranking = views(Evidence(study))[0]
        console.print(as_rich(ranking))
        text = console.export_text()
        assert all(cell in text for row in ranking.cells() for cell in row)


class TestCommand:
    def test_prints_one_table_or_all(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main([str(study), "--as", "md"])
        assert capsys.readouterr().out.count("\n|---") == 4
        main([str(study), "--as", "latex", "--table", "cost"])
        assert capsys.readouterr().out.count(r"\begin{table}") == 1
        main([str(study), "--as", "csv"])
        assert capsys.readouterr().out.startswith("rank,config,")
        main([str(study)])
        assert "configurations, best first" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--table", "ablation"], "this study has ranking, classes, sizes, cost"),
            (["--group-by", "sequence"], "from before studies kept their ground truth"),
        ],
    )
    def test_a_users_mistake_exits_with_2(
        self, study: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main([str(study), *options])
        assert ended.value.code == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("which", ["seen", "finals", "chain"])
def test_every_caption_names_the_data_and_the_budget(which: str, request: pytest.FixtureRequest) -> None:
    for view in views(Evidence(request.getfixturevalue(which))):
        if view.name not in ("importance", "path"):
            assert "0123456789abcdef" in view.caption, view.name
            assert re.search(r"rungs 1, 3, 9 epochs|rungs 2 epochs|passes a training|after \d+ epochs", view.caption), (
                view.name
            )


def test_what_is_not_told_apart_says_what_would_have_been(finals: Path) -> None:
    ranking = views(Evidence(finals))[0]
    assert [row["not_told_apart"] for row in ranking.rows[:2]].count(True) <= 1
    assert re.search(r"80% of such studies would tell a difference of 0\.\d+ from none", ranking.caption)


def test_a_fresh_seed_that_diverged_counts_alike_in_mean_and_interval(finals: Path, story: Story) -> None:
    lines = [json.loads(line) for line in (finals / "journal.jsonl").read_text().splitlines()]
    for line in lines:
        if line["event"] == "leg_ended" and line["trial"] == "b3":
            line |= {"outcome": "diverged"}
    (finals / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = {row["config"]: row for row in views(Evidence(finals))[0].rows}
    state = Evidence(finals).state
    row = rows[state.trials["best0002"].config_hash]
    assert row["mAP_mean"] == pytest.approx((0.39 + 0.40 + 0.0) / 3)
    assert (row["seeds_low"] + row["seeds_high"]) / 2 == pytest.approx(row["mAP_mean"])
    assert row["fresh_seeds"] == 3


def test_a_configuration_without_fresh_seeds_says_so_beside_those_that_have(finals: Path) -> None:
    ranking = views(Evidence(finals))[0]
    column = list(ranking.columns).index("n")
    told = {row["config"]: cells[column] for row, cells in zip(ranking.rows, ranking.cells(), strict=True)}
    assert sorted(told.values()) == ["0"] * (len(told) - 2) + ["3", "3"]
