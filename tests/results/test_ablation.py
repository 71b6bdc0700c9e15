"""The ablation's table on a chain written by hand: spread over seeds, paired differences, missing seeds, LaTeX."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from results.ablation import ablation_rows, as_latex, caption, legend
from results.records import read_journal, read_plan
from results.report import write_results
from results.state import StudyState
from tests.results.conftest import BASE, STEPS, Story


def rows_of(folder: Path) -> list[dict[str, Any]]:
    plan = read_plan(folder)
    return ablation_rows(plan, StudyState.of_plan(plan, read_journal(folder / "journal.jsonl")))


def test_a_row_a_step_in_the_chains_order_by_the_last_epoch(chain: Path) -> None:
    base, giou, deep = rows_of(chain)
    assert [row["step"] for row in (base, giou, deep)] == ["base", "+giou", "+deep_heads"]
    assert (base["n"], giou["n"], deep["n"]) == (2, 2, 1), "what did not train to its end does not count"
    assert base["mAP_mean"] == pytest.approx(0.12)
    assert base["mAP_sd"] == pytest.approx(0.04 / math.sqrt(2))
    assert (base["changed"], giou["changed"]) == ("-", "box_loss=giou")
    assert (base["report_mAP"], base["report_ms"], base["report_parameters"]) == (0.04, 130.0, 2_590_880)
    assert (giou["parameters"], giou["ms_per_batch"], giou["images_per_s"]) == (1234, 20.5, 390.0)
    assert deep["parameters"] is None
    assert base["AP50"] == pytest.approx(0.18)
    assert base["AP car"] == pytest.approx(0.12)
    assert "AP tram" not in base, "a class without a box has no AP"
    assert base["train_minutes"] == pytest.approx(2 * 1.5 / 60)


def test_delta_is_the_two_way_models_and_names_missing_seeds(chain: Path) -> None:
    """Least squares by hand: five cells, three steps, two seeds, one degree of freedom.

    base and +giou have both seeds, so their mean gap is ((.13 - .10) + (.15 - .14)) / 2 = .02, and the seeds differ by
    the mean of .04 and .02: .03. +deep_heads has seed 1 alone: .12 minus +giou at seed 1, which the model has at the mean
    .14 plus half of .03.
    """
    base, giou, deep = rows_of(chain)
    assert math.isnan(base["delta"])
    assert (giou["delta"], deep["delta"]) == (pytest.approx(0.02), pytest.approx(0.12 - 0.155))
    # residuals are +-.005 in four cells: variance 4 x 25e-6 / 1; the gap's error sqrt(1e-4 x 2 / 2) = .01; t(1) = 12.706
    assert (giou["delta_low"], giou["delta_high"]) == (
        pytest.approx(0.02 - 0.12706, abs=1e-5),
        pytest.approx(0.14706, abs=1e-5),
    )
    assert (giou["seeds_missing"], deep["seeds_missing"]) == ("", "0")
    assert giou["p_holm"] > 0.05
    assert giou["detectable"] > 0.1
    assert math.isnan(deep["mAP_sd"])


def test_the_caption_tells_what_intervals_cover_and_what_could_have_been_found(chain: Path) -> None:
    plan = read_plan(chain)
    told = caption(plan, StudyState.of_plan(plan, read_journal(chain / "journal.jsonl")))
    assert "95 % interval over seeds, not over images" in told
    assert "corrected for 2 differences" in told
    assert "missing seeds: 0" in told


def test_one_seed_stands_without_intervals(chain: Path) -> None:
    lines = [json.loads(line) for line in (chain / "journal.jsonl").read_text().splitlines()]
    alone = {r["trial"] for r in lines if r["event"] == "trial_created" and r["seed"] == 1}
    kept = [line for line in lines if line.get("trial") in alone or "trial" not in line]
    plan = read_plan(chain)
    state = StudyState.of_plan(plan, kept)
    rows = ablation_rows(plan, state)
    assert rows[1]["delta"] == pytest.approx(0.01)
    assert math.isnan(rows[1]["delta_low"])
    assert "one seed a step allows no interval" in caption(plan, state)


def test_the_report_writes_the_table_three_times_and_counts_trainings(chain: Path) -> None:
    found = write_results(chain)
    for kind in ("csv", "md", "tex"):
        assert "+deep" in (chain / "results" / f"ablation.{kind}").read_text()
    assert found.summary["ablation"]["trials"] == 6
    assert found.summary["ablation"]["finished"] == 5
    assert found.summary["trials"] == 0, "these count the search alone"
    page = (chain / "results" / "report.html").read_text()
    assert "<h2>Steps</h2>" in page
    assert "2 seeds a step" in page
    assert "no trial has scored" not in page
    assert "2 seeds a step" in (chain / "results" / "ablation.md").read_text()


def test_latex_escapes_what_tex_would_read(chain: Path) -> None:
    text = as_latex(rows_of(chain), "50 % & more_of_it")
    assert r"\caption{50 \% \& more\_of\_it}" in text
    assert r"+deep\_heads" in text
    assert text.count(r" \\") == 1 + len(STEPS)
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    headings = text.split(r"\toprule")[1].splitlines()[1]
    assert len(columns) == headings.count(" & ") + 1


def test_the_caption_says_what_the_numbers_stand_on(chain: Path) -> None:
    plan = read_plan(chain)
    told = caption(plan, StudyState.of_plan(plan, read_journal(chain / "journal.jsonl")))
    assert "2 seeds a step, mAP of the last epoch on 16 images" in told
    assert "2 passes a training" in told
    assert "one batch of 8" in told
    assert BASE.steps_per_epoch == 0


def test_a_bootstrap_over_seeds_from_eight_on_alone(chain: Path, story: Story) -> None:
    plan = read_plan(chain)
    story.records = read_journal(chain / "journal.jsonl")[:-1]
    for seed in range(2, 9):
        story.create(f"more{seed}", {}, 40.0, role="ablation", seed=seed)
        story.records[-1]["step"] = "base"
        story.train(f"more{seed}", [0.1, 0.1 + seed / 100], 1, 40.0, to=2)
    story.write()
    base, giou, _ = ablation_rows(plan, StudyState.of_plan(plan, read_journal(chain / "journal.jsonl")))
    assert base["n"] == 9
    assert base["mAP_boot_low"] < base["mAP_mean"] < base["mAP_boot_high"]
    assert math.isnan(giou["mAP_boot_low"]), "at two seeds it would cover next to nothing"


def test_every_step_tells_the_seeds_that_it_lacks_and_nothing_shrinks_in_silence(chain: Path) -> None:
    plan = read_plan(chain)
    records = [
        r
        for r in read_journal(chain / "journal.jsonl")
        if r.get("seed") != 1 and not str(r.get("trial", "")).endswith("1")
    ]
    rows = ablation_rows(plan, StudyState.of_plan(plan, records))
    assert [row["seeds_missing"] for row in rows] == ["1", "1", "0 1"]
    told = caption(plan, StudyState.of_plan(plan, records))
    assert "2 seeds a step" in told, "as planned"


def test_of_a_comparison_with_the_first_every_delta_is_against_it(chain: Path) -> None:
    plan = {**read_plan(chain), "compare": "first"}
    state = StudyState.of_plan(plan, read_journal(chain / "journal.jsonl"))
    base, giou, deep = ablation_rows(plan, state)
    assert giou["delta"] == pytest.approx(0.02)
    # +deep_heads has seed 1 alone, at .12; base is .12 at the mean, .135 at seed 1 by the model (seeds differ by .03).
    assert deep["delta"] == pytest.approx(0.12 - 0.135)
    assert "delta: step minus base" in legend(plan, state)
    assert math.isnan(base["delta"])


def test_unequal_spreads_are_told(chain: Path, story: Story) -> None:
    plan = read_plan(chain)
    story.records = read_journal(chain / "journal.jsonl")[:1]
    for step, spread in (("base", 0.001), ("+giou", 0.05), ("+deep_heads", 0.001)):
        for seed in range(6):
            story.create(f"{step}{seed}", {}, 2.0, role="ablation", seed=seed)
            story.records[-1]["step"] = step
            story.train(f"{step}{seed}", [0.2, 0.2 + spread * (-1) ** seed * (1 + seed / 7)], 1, 2.0, to=2)
    uneven = StudyState.of_plan(plan, story.records)
    assert "the steps spread unequally" in legend(plan, uneven)
    assert "spread unequally" not in legend(plan, StudyState.of_plan(plan, read_journal(chain / "journal.jsonl")))
