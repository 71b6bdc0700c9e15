"""What the tests of the search build by hand: datasets' facts, resolved spaces, epoch results, engines without Ray."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from results.records import read_journal
from results.state import StudyState
from search.engine import Engine, Leg, Limits
from search.journal import Journal
from search.options import Options
from search.plan import Study, make_plan
from search.rungs import make_scheduler, rung_levels
from search.study import engine_of, hold_journal
from spaces.fitting import DatasetFacts
from spaces.loading import load_space
from spaces.space import ResolvedSpace, resolve

STREET = DatasetFacts(
    ((128, 512),) * 4, ((20.0, 12.0), (30.0, 14.0), (16.0, 40.0), (12.0, 12.0)), (0, 1, 2, 3), full_turn=True
)
PHOTOS = DatasetFacts(((480, 640),) * 3, ((100.0, 80.0), (200.0, 210.0), (60.0, 150.0)), (0, 1, 2), full_turn=False)

FINGERPRINT = "0123456789abcdef"


def smoke_space() -> ResolvedSpace:
    """The smoke space on a street-like dataset."""
    return resolve(load_space("smoke"), "cpu", STREET)


def epoch_result(epoch: int, score: float, seconds: float = 1.0) -> dict[str, Any]:
    """An epoch's report as a leg hands it back."""
    names = (
        "AP75",
        "AP_small",
        "AP_medium",
        "AP_large",
        "AR_1",
        "AR_10",
        "AR_100",
        "AR_small",
        "AR_medium",
        "AR_large",
    )
    return {
        "epoch": epoch,
        "train_loss": 1.0 / epoch,
        "classification_loss": 0.6 / epoch,
        "box_loss": 0.4 / epoch,
        "metrics": {"mAP": score, "AP50": min(1.0, 1.5 * score), **dict.fromkeys(names, score)},
        "per_class": {"car": score, "tram": -1.0},
        "best_f1_scores": {"car": 0.4},
        "lr": 1e-3,
        "train_seconds": 0.75 * seconds,
        "eval_seconds": 0.25 * seconds,
        "seconds": seconds,
        "leg": 1,
        "threads": 1,
    }


class NumberedSampler:
    """Proposals that depend on their number alone."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.asked = seed, 0

    def propose(self, number: int, state: StudyState) -> dict[str, Any]:
        self.asked += 1
        return {"lr": round(random.Random(f"{self.seed}/{number}").uniform(1e-3, 1e-2), 6)}


class ListedSampler:
    """Proposals read from a list, then none."""

    def __init__(self, proposals: list[dict[str, Any]]) -> None:
        self.proposals = proposals

    def propose(self, number: int, state: StudyState) -> dict[str, Any] | None:
        return self.proposals[number - 1] if number <= len(self.proposals) else None


def make_engine(
    folder: Path,
    *,
    sampler: Any = None,
    scheduler: str = "asha",
    trials: int = 9,
    limits: Limits | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> Engine:
    """An engine over the journal in a folder, replayed as a resumed study replays it."""
    plan = make_scheduler(scheduler, [9] if scheduler == "none" else rung_levels(1, 9, 3), 3)
    journal = Journal(folder / "journal.jsonl")
    state = StudyState.replay(read_journal(journal.path), "mAP", plan.levels)
    return Engine(
        state,
        journal,
        smoke_space(),
        sampler or NumberedSampler(),
        plan,
        limits or Limits(trials),
        FINGERPRINT,
        0,
        clock,
    )


def train_leg(engine: Engine, leg: Leg, score_of: Callable[[str, int], float]) -> None:
    """Trains a leg to its rung without an incident."""
    for epoch in range(engine.state.trials[leg.trial].last_epoch + 1, leg.to_epoch + 1):
        engine.on_epoch(leg.trial, epoch_result(epoch, score_of(leg.trial, epoch)))
    engine.on_leg_end(leg.trial, "reached")


def hash_score(trial: str, epoch: int) -> float:
    """A score that depends on (trial, epoch) alone and grows over epochs."""
    return round(random.Random(trial).uniform(0.1, 0.6) * (1 - 0.5**epoch), 6)


def write_dataset(folder: Path, width: int = 96, height: int = 64, seed: int = 0) -> Path:
    """A COCO-format folder: three training and two validation images of noise, one box each."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", 3), ("val", 2)):
        images, annotations = [], []
        for number in range(1, count + 1):
            name = f"{split}{number}.png"
            Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / "images" / name)
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            box = [10, 10, 20 + 2 * number, 16]
            annotations.append(
                {"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def say(line: str) -> None:
    """What a plan says while it is made is not under test."""


def planned(tmp_path: Path, folder: Path, /, **options: Any) -> Study:
    values = {"space": "smoke", "data": str(folder), "runs_dir": str(tmp_path / "runs"), "name": "s", **options}
    return make_plan(Options(**values), say)


def train_all(study: Study, legs: int | None = None) -> None:
    """Trains a planned study's legs without Ray, one after another: all of them, or so many and then one that stays open."""
    scheduler = make_scheduler(study.plan["scheduler"], study.levels, study.plan["eta"])
    journal = hold_journal(study) if study.link else Journal(study.folder / "journal.jsonl")
    engine = engine_of(study, StudyState.of_plan(study.plan), journal, scheduler)
    engine.record(
        "session_started", started=0.0, resumed=False, slots=1, threads=1, device="CPU", trials=study.plan["trials"]
    )
    done = 0
    while (leg := engine.next_leg()) is not None:
        if done == legs:
            break
        train_leg(engine, leg, hash_score)
        done += 1
    journal.close()
