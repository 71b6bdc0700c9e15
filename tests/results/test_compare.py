"""Two studies beside each other: what is subtracted, over what, and what is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from results.compare import compare, main
from results.evidence import Evidence
from results.view import View


def copied(folder: Path, name: str, shift: float = 0.0, **dataset: Any) -> Path:
    """The study again, its scores shifted, its dataset's entry changed."""
    other = folder.with_name(name)
    shutil.copytree(folder, other)
    plan = json.loads((other / "study.json").read_text())
    plan["name"] = name
    plan["dataset"] |= dataset
    (other / "study.json").write_text(json.dumps(plan))
    lines = [json.loads(line) for line in (other / "journal.jsonl").read_text().splitlines()]
    for line in lines:
        if line["event"] == "epoch":
            line["metrics"]["mAP"] += shift * (1 + line["trial"].startswith("b"))
    (other / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return other


def views_of(a: Path, b: Path) -> dict[str, View]:
    return {view.name: view for view in compare(Evidence(a), Evidence(b))}


def test_a_study_does_not_differ_from_itself(seen: Path) -> None:
    found = views_of(seen, copied(seen, "other"))
    gap = found["compare"].rows[2]
    assert (gap["over"], gap["mAP"], gap["low"], gap["high"]) == ("images", 0.0, 0.0, 0.0)
    assert found["fields"].rows == []
    assert "the two configurations are the same" in found["fields"].caption
    assert [row["difference"] for row in found["classes"].rows][0] == 0.0


def test_worse_detections_are_told_by_images_and_by_class(seen: Path) -> None:
    other = copied(seen, "other")
    path = other / "trials" / "best0002" / "detections.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row for row in rows if row["category_id"] == 2]))
    found = views_of(seen, other)
    gap = found["compare"].rows[2]
    assert gap["mAP"] < 0
    assert gap["high"] < 0, "the same images were drawn for both"
    car, tram = found["classes"].rows
    assert car["low"] < 0
    assert (tram["low"], tram["high"]) == (0.0, 0.0)


def test_fresh_seeds_that_both_have_are_paired(finals: Path) -> None:
    found = views_of(finals, copied(finals, "other", 0.01))
    gap = found["compare"].rows[2]
    assert (gap["over"], gap["mAP"]) == ("seeds", pytest.approx(0.02))
    assert "paired t on the 3 that both have" in found["compare"].caption


def test_without_them_it_is_said_how_to_get_them(study: Path) -> None:
    told = views_of(study, copied(study, "other"))["compare"].caption
    assert "run both with --seeds-final 3" in told
    assert "from before ground truth was kept" in told


def test_other_data_are_not_subtracted(seen: Path) -> None:
    found = views_of(seen, copied(seen, "other", fingerprint="fedcba9876543210"))
    assert len(found["compare"].rows) == 2
    assert "scores on other data do not compare" in found["compare"].caption


def test_fields_that_differ(seen: Path) -> None:
    other = copied(seen, "other")
    lines = [json.loads(line) for line in (other / "journal.jsonl").read_text().splitlines()]
    for line in lines:
        if line["event"] == "trial_created" and line["trial"] == "best0002":
            line["config"]["lr"] = 0.004
    (other / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = views_of(seen, other)["fields"].rows
    assert rows == [{"field": "lr", "A": 0.002, "B": 0.004}]


def test_the_command_prints_and_refuses(seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copied(seen, "other")
    main([str(seen), str(other), "--as", "md"])
    assert "B - A, over images" in capsys.readouterr().out
    main([str(seen), str(other)])
    assert "best of each" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([str(seen), str(tmp_path)])
    assert ended.value.code == 2
    assert "must be a study folder" in capsys.readouterr().err


def test_a_study_without_a_score_is_refused(study: Path, story: Any, tmp_path: Path) -> None:
    empty = copied(study, "empty")
    (empty / "journal.jsonl").write_text("")
    with pytest.raises(ValueError, match="must have a trial that has scored"):
        compare(Evidence(study), Evidence(empty))


def test_seeds_that_are_not_shared_are_compared_by_welch(finals: Path) -> None:
    """.39 .40 .41 against the same plus .05, .02 and .09, on other seeds: means .40 and .4533."""
    from scipy.stats import ttest_ind

    other = copied(finals, "other")
    lines = [json.loads(line) for line in (other / "journal.jsonl").read_text().splitlines()]
    shift = {"b1": 0.05, "b2": 0.02, "b3": 0.09}
    for line in lines:
        if line["event"] == "trial_created" and line["trial"] in shift:
            line["seed"] += 10
        if line["event"] == "epoch":
            line["metrics"]["mAP"] += shift.get(line["trial"], 0.0)
    (other / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    gap = views_of(finals, other)["compare"].rows[2]
    here, there = [0.39, 0.40, 0.41], [0.44, 0.42, 0.50]
    expected = ttest_ind(there, here, equal_var=False).confidence_interval(0.95)
    assert gap["mAP"] == pytest.approx(0.16 / 3)
    assert (gap["low"], gap["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_one_training_of_each_is_compared_and_not_the_luckiest_seed(finals: Path) -> None:
    rows = views_of(finals, copied(finals, "other"))["compare"].rows
    assert rows[0]["trial"] == "best0002"
