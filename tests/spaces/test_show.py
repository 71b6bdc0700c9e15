"""spaces.show: every space in words and as JSON; a mistake is one line and exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spaces.loading import load_space, space_names
from spaces.show import main


@pytest.mark.parametrize("name", space_names())
def test_every_space_is_shown_with_all_its_fields_and_steps(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, "--json"])
    told = json.loads(capsys.readouterr().out)
    main([name])
    text = capsys.readouterr().out
    for profile_name, profile in load_space(name).profiles.items():
        shown = told["profiles"][profile_name]
        assert shown["fields"].keys() == profile.fields.keys()
        assert [step["name"] for step in shown["chain"]] == [step.name for step in profile.chain]
        assert shown["budget"] == vars(profile.budget)
        assert all(field in text for field in profile.fields)


def test_a_file_of_ones_own_with_its_constraints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("fields: {lr: {log: [1e-4, 1e-2]}}\nconstraints: [lr < 1]\n")
    main([str(tmp_path / "mine.yaml")])
    out = capsys.readouterr().out
    assert "constraint: lr < 1" in out
    assert "0.0001 .. 0.01 (log)" in out


def test_a_mistake_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["retinanett"])
    assert caught.value.code == 2
    assert 'Did you mean "retinanet"' in capsys.readouterr().err
