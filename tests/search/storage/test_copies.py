"""A study that lives in an object store, planned, trained (without Ray) and resumed as one in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from results.records import JournalError, read_journal
from results.state import read_study
from search.clean import main as clean
from search.control import main as control
from search.fetch import main as fetch
from search.options import Options, StudyError
from search.plan import Study, write_plan
from search.resume import resume_plan
from search.status import main as status
from search.storage.copies import bring_home, leave_results, look_at, studies_in, study_store
from search.storage.store import open_store
from search.study import hold_journal, settle_storage
from tests.search.builders import planned, say, train_all, write_dataset

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def study(tmp_path: Path, link: str) -> Study:
    """A study in the store, in its sixth leg."""
    made = planned(tmp_path, write_dataset(tmp_path / "data"), storage=link)
    write_plan(made)
    train_all(made, legs=5)
    return made


def test_plan_and_journal_lie_in_the_store(study: Study) -> None:
    assert json.loads(study.store.get("study.json") or b"") == study.plan
    plan, state = look_at(study.link)
    assert plan == read_study(study.folder)[0]
    assert [r["event"] for r in state.records] == [r["event"] for r in read_study(study.folder)[1].records]
    assert len(state.records) > 10


def test_no_secret_in_anything_that_is_written(study: Study) -> None:
    for name in study.store.sizes():
        assert b"planted-secret" not in (study.store.get(name) or b""), name
    for path in study.folder.rglob("*"):
        assert not path.is_file() or b"planted-secret" not in path.read_bytes(), path


def test_another_machine_goes_on_with_it(study: Study, tmp_path: Path, link: str) -> None:
    options = Options(space="smoke", storage=link, resume=True, runs_dir=str(tmp_path / "elsewhere"))
    again = resume_plan(options, say)
    assert (again.link, again.folder) == (study.link, tmp_path / "elsewhere" / "s")
    assert again.plan["space"] == study.plan["space"]
    journal = hold_journal(again)
    journal.append("study_ended", reason="done")
    journal.close()
    records = read_journal(again.folder / "journal.jsonl")
    assert records[: len(read_journal(study.folder / "journal.jsonl"))] == read_journal(study.folder / "journal.jsonl")
    assert [r["generation"] for r in records if r["event"] == "lease_taken"] == [1, 2]
    assert look_at(study.link)[1].ended == "done"


def test_a_copy_of_another_study_is_not_written_over(study: Study, tmp_path: Path, link: str) -> None:
    other = tmp_path / "elsewhere" / "s"
    other.mkdir(parents=True)
    (other / "study.json").write_text("{}")
    with pytest.raises(StudyError, match=f"{other} holds another study than {link}/s; give another --runs-dir"):
        resume_plan(Options(space="smoke", storage=link, resume=True, runs_dir=str(tmp_path / "elsewhere")), say)
    assert (other / "study.json").read_text() == "{}"


def test_a_name_is_taken_once(study: Study, tmp_path: Path, link: str) -> None:
    with pytest.raises(StudyError, match=f"{link}/s holds a study already; continue it with --resume"):
        planned(tmp_path, tmp_path / "data", storage=link, runs_dir=str(tmp_path / "elsewhere"))


def test_which_study_is_meant(study: Study, tmp_path: Path, link: str) -> None:
    assert studies_in(open_store(link)) == ["s"]
    with pytest.raises(StudyError, match=f"{link}/gone must be a study"):
        resume_plan(Options(space="smoke", storage=link, resume=True, name="gone", runs_dir=str(tmp_path / "e")), say)
    write_plan(planned(tmp_path, tmp_path / "data", storage=link, name="other"))
    with pytest.raises(StudyError, match=f"name one of the 2 studies in {link} with --name: other, s"):
        resume_plan(Options(space="smoke", storage=link, resume=True, runs_dir=str(tmp_path / "e")), say)


def test_results_come_home_without_checkpoints(study: Study, tmp_path: Path) -> None:
    trial = next(iter(look_at(study.link)[1].trials))
    for name in ("best.pt", "checkpoint.pt", "detections.json", "log.txt"):
        study.store.put(f"trials/{trial}/{name}", name.encode())
    (study.folder / "results").mkdir()
    (study.folder / "results" / "leaderboard.csv").write_text("trial\n")
    (study.folder / "trials" / trial).mkdir(parents=True, exist_ok=True)
    (study.folder / "trials" / trial / "detections.json").write_text("an older epoch's")
    leave_results(study.store, study.folder)
    home = tmp_path / "home"
    bring_home(study.store, home)
    there = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert there == {
        "study.json", "ground_truth.json", "journal.jsonl", "copy_of.txt", "results/leaderboard.csv", f"trials/{trial}/detections.json", f"trials/{trial}/log.txt",
    }  # fmt: skip
    assert (home / "trials" / trial / "detections.json").read_text() == "detections.json", "what its worker left"


def test_a_copy_is_not_gone_on_with_by_mistake(study: Study, tmp_path: Path, link: str) -> None:
    with pytest.raises(StudyError, match=f"is a copy of {link}/s; go on with that by --storage {link} --name s"):
        resume_plan(Options(space="smoke", resume=True, name="s", runs_dir=str(tmp_path / "runs")), say)
    fetch([study.link, "--to", str(tmp_path / "home" / "s")])
    with pytest.raises(StudyError, match=f"is a copy of {link}/s"):
        resume_plan(Options(space="smoke", resume=True, name="s", runs_dir=str(tmp_path / "home")), say)
    (tmp_path / "home" / "s" / "copy_of.txt").unlink()
    own = resume_plan(Options(space="smoke", resume=True, name="s", runs_dir=str(tmp_path / "home")), say)
    assert own.link == ""
    journal = hold_journal(own)
    journal.append("study_ended", reason="done")
    journal.close()
    assert read_study(own.folder)[1].ended == "done", (
        "its generation is above that of the study that it was copied from"
    )


def test_lost_claims_do_not_restart_the_count(study: Study) -> None:
    for name in study.store.sizes("lease/"):
        study.store.delete(name)
    journal = hold_journal(study)
    journal.append("study_ended", reason="done")
    journal.close()
    assert look_at(study.link)[1].ended == "done"


class TestCommands:
    def test_clean_frees_the_store(self, study: Study, capsys: pytest.CaptureFixture[str]) -> None:
        trials = [trial.id for trial in look_at(study.link)[1].trials.values() if trial.leg_target is None]
        for trial in trials:
            study.store.put(f"trials/{trial}/checkpoint.pt", b"12345678" * 20_000)
        clean([study.link, "--keep", "best", "--dry-run"])
        said = capsys.readouterr().err
        clean([study.link, "--keep", "best"])
        assert capsys.readouterr().err == said.replace("would free", "freed")
        assert len([name for name in study.store.sizes("trials/") if name.endswith(".pt")]) == 3, (
            "the best, and with the base whoever may go to the top at the end"
        )
        dropped = [r["trial"] for r in look_at(study.link)[1].records if r["event"] == "checkpoint_dropped"]
        assert len(dropped) == len(trials) - 3

    def test_a_report_needs_a_folder(self, study: Study) -> None:
        with pytest.raises(JournalError, match="bring the study home first, by python -m search.fetch"):
            read_study(Path(study.link))

    def test_status_of_a_link(self, study: Study, capsys: pytest.CaptureFixture[str]) -> None:
        status([study.link, "--json"])
        told = json.loads(capsys.readouterr().out)
        assert (told["folder"], told["trials"]) == (study.link, len(look_at(study.link)[1].trials))

    def test_fetch_fills_a_folder_once_and_no_other(self, study: Study, tmp_path: Path) -> None:
        best = look_at(study.link)[1].best_trial()
        assert best is not None
        study.store.put(f"trials/{best.id}/best.pt", b"weights")
        home = tmp_path / "home"
        fetch([study.link, "--to", str(home)])
        assert not list(home.rglob("*.pt"))
        fetch([study.link, "--to", str(home), "--weights"])
        assert [path.read_bytes() for path in home.rglob("*.pt")] == [b"weights"]
        assert read_study(home)[1].records == read_study(study.folder)[1].records
        (home / "study.json").write_text("{}")
        with pytest.raises(SystemExit) as ended:
            fetch([study.link, "--to", str(home)])
        assert ended.value.code == 2

    def test_fetch_from_a_shared_folder(self, searched: Path, tmp_path: Path) -> None:
        fetch([str(searched), "--to", str(tmp_path / "home")])
        assert (tmp_path / "home" / "journal.jsonl").read_bytes() == (searched / "journal.jsonl").read_bytes()

    @pytest.mark.parametrize("run", ["s3://studies/nothing-here", "gs://studies/x", "s3://key:secret@studies/x"])
    @pytest.mark.usefixtures("link")
    def test_what_is_no_study(self, run: str, capsys: pytest.CaptureFixture[str]) -> None:
        for main in (status, fetch, lambda words: control([*words, "stop"])):
            with pytest.raises(SystemExit) as ended:
                main([run])
            assert ended.value.code == 2
            told = capsys.readouterr().err
            assert told.startswith("error: ")
            assert "secret" not in told

    def test_a_request_is_left_in_the_store(self, study: Study, capsys: pytest.CaptureFixture[str]) -> None:
        assert control([study.link, "stop", "--patience", "0.1"]) == 1
        assert "no answer in 0.1 s" in capsys.readouterr().err
        (name,) = study.store.sizes("requests/")
        assert json.loads(study.store.get(name) or b"") == {"ask": "stop"}


class TestWhereStudiesLive:
    def test_a_folder_is_where_runs_lie(self) -> None:
        settled = settle_storage(Options(storage="/mnt/team"))
        assert (settled.runs_dir, settled.storage) == ("/mnt/team", None)

    def test_two_places_are_one_too_many(self) -> None:
        with pytest.raises(StudyError, match="--storage /mnt/team and --runs-dir /tmp/x: one folder holds the studies"):
            settle_storage(Options(storage="/mnt/team", runs_dir="/tmp/x"))

    def test_a_folder_without_a_study(self, tmp_path: Path) -> None:
        with pytest.raises(JournalError, match="must be a study; it holds no study.json"):
            study_store(tmp_path)
