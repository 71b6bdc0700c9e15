"""Trainers of one's own: found, refused, checked, and searched around."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.checkpoint import load_checkpoint
from detector.config import DetectorConfig
from detector.data.batches import TrainingData, load_training_data
from detector.data.lidar import make_dataset
from detector.trainer import EpochResult, Trainer
from search.check_trainer import checks, main
from search.leg import CHECKPOINT, LegRunner
from search.options import StudyError
from search.trainers import Guest, make_trainer, trainer_class
from spaces.distributions import Choice, Float
from spaces.space import Budget, ResolvedSpace

CONFIG = DetectorConfig(
    image_size_px=(128, 512), trunk_width=0.25, neck_levels=(3, 4), neck_channels=16, head_depth=0, batch_size=2,
    steps_per_epoch=2, schedule_epochs=3,
)  # fmt: skip


class PlainTrainer:
    """Ours behind the four methods alone."""

    def __init__(self, config: DetectorConfig, data: TrainingData, seed: int, device: str | None) -> None:
        self.inner = Trainer(config, data, seed, device)

    def step(self) -> EpochResult:
        return self.inner.step()

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


class DeafTrainer(PlainTrainer):
    """Trains every config with the same learning rate."""

    def __init__(self, config: DetectorConfig, data: TrainingData, seed: int, device: str | None) -> None:
        super().__init__(config.with_values({"lr": 1e-3}), data, seed, device)


class ForgetfulTrainer(PlainTrainer):
    """Does not go on from where it was."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class UnseededTrainer(PlainTrainer):
    """Takes another seed each time."""

    made = 0

    def __init__(self, config: DetectorConfig, data: TrainingData, seed: int, device: str | None) -> None:
        type(self).made += 1
        super().__init__(config, data, seed + type(self).made, device)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict({**state, "seed": self.inner.seed})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Equal numbers need equal threads, and a few small images no more than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    place = tmp_path_factory.mktemp("street")
    make_dataset(place / "data", {"train": 6, "val": 2}, seed=3, degrees=180, processes=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        return load_training_data(place / "data", CONFIG.image_size_px)


SPACE = ResolvedSpace(
    "s", "cpu", CONFIG, {"lr": Float(1e-4, 1e-2, log=True), "box_loss": Choice("smooth_l1", "giou")}, Budget(4, 3, 1)
)


def failed(kind: Any, data: TrainingData) -> list[str]:
    return [
        check.name for check in checks(lambda config, seed: kind(config, data, seed, "cpu"), SPACE) if not check.passed
    ]


class TestChecks:
    def test_ours_passes_all_and_so_does_one_of_four_methods(self, data: TrainingData) -> None:
        assert failed(Trainer, data) == []
        assert failed(PlainTrainer, data) == []

    def test_a_hyperparameter_that_never_reaches_the_trainer_is_found(self, data: TrainingData) -> None:
        assert failed(DeafTrainer, data) == ["lr"]

    def test_a_trainer_that_does_not_go_on_is_found(self, data: TrainingData) -> None:
        assert failed(ForgetfulTrainer, data) == ["going on from its state is as never stopped"]

    def test_a_trainer_that_is_not_seeded_is_found(self, data: TrainingData) -> None:
        assert "the same config and seed train alike" in failed(UnseededTrainer, data)

    def test_a_failed_check_is_told_and_exits_with_2(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        make_dataset(tmp_path / "d", {"train": 6, "val": 2}, seed=3, degrees=180, processes=1)
        (tmp_path / "s.yaml").write_text("include: smoke\nfields: {lr: {log: [1e-3, 1e-2]}}\n")
        with pytest.raises(SystemExit) as caught:
            main(
                [
                    "--trainer",
                    f"{__name__}:DeafTrainer",
                    "--data",
                    str(tmp_path / "d"),
                    "--space",
                    str(tmp_path / "s.yaml"),
                ]
            )
        assert caught.value.code == 2
        told = capsys.readouterr()
        assert "FAIL  lr:" in told.out
        assert "1 of 5 checks failed: lr" in told.err


class TestFinding:
    def test_none_named_is_ours(self) -> None:
        assert trainer_class("") is Trainer

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("nothing", "package.module:Class"),
            ("no.such.module:Trainer", "must be importable"),
            ("detector.trainer:NoTrainer", "must be importable"),
            (":Trainer", "package.module:Class"),
            ("broken_trainer:Trainer", "importing it said: NameError: name 'nothing' is not defined"),
            ("torn_trainer:Trainer", "importing it said: SyntaxError"),
            ("detector.trainer:DivergedError", "lacks step, state_dict, load_state_dict"),
        ],
    )
    def test_what_is_no_trainer_is_refused(
        self, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "broken_trainer.py").write_text("nothing\n")
        (tmp_path / "torn_trainer.py").write_text("def (\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(StudyError, match=said):
            trainer_class(name)


def test_a_leg_around_a_guest_goes_on_from_its_checkpoint(tmp_path: Path, data: TrainingData) -> None:
    study = {
        "folder": str(tmp_path), "source": {}, "skip_bad": False, "metric": "mAP", "official_eval": False, "threads": 1,
        "device": "cpu", "rank_on": "best", "trainer": f"{__name__}:PlainTrainer",
    }  # fmt: skip
    leg = {
        "trial": "t1", "number": 1, "config": CONFIG.to_dict(), "seed": 0, "to_epoch": 1, "start_from": "",
        "longer_schedule": False, "alone": False, "micro_batch": None, "probe": False,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.leg.open_data", lambda *_: data)
        first = LegRunner(leg, study).step()
        onward = LegRunner({**leg, "to_epoch": 2}, study).step()
    assert (first["outcome"], onward["outcome"]) == ("reached", "reached")
    assert [(row["epoch"], row.get("absorbed", False)) for row in onward["epochs"]] == [(1, True), (2, False)]
    straight = Trainer(CONFIG, data, 0, "cpu")
    losses = [straight.step().train_loss, straight.step().train_loss]
    assert [row["train_loss"] for row in onward["epochs"]] == losses
    state = load_checkpoint(tmp_path / "trials" / "t1" / CHECKPOINT)
    assert state is not None
    assert len(state["history"]) == 2


def test_a_guest_that_counts_its_epochs_wrongly_is_told(data: TrainingData) -> None:
    guest = make_trainer(f"{__name__}:PlainTrainer", CONFIG, data, 0, "cpu", False, None)
    assert isinstance(guest, Guest)
    guest.inner.step()
    with pytest.raises(ValueError, match=r"step\(\) must return epoch 1, it returned epoch 2"):
        guest.step()
