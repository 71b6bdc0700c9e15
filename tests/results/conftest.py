"""A small study written by hand, as study.json and journal.jsonl lie in a real folder: every number below is known.

Six trials over rungs of 1, 3 and 9 epochs, on two slots, in two sessions (the second resumed after a crash).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from detector.config import DetectorConfig
from results.records import GROUND_TRUTH_NAME, read_plan
from spaces.distributions import Choice, Float
from spaces.space import Budget, ResolvedSpace
from tests.results.scenes import scene

LEVELS = [1, 3, 9]
BASE = DetectorConfig(schedule_epochs=9)
FIELDS = {
    "lr": Float(1e-4, 1e-2, log=True),
    "box_loss": Choice("smooth_l1", "giou"),
    "head_shared": Choice(True, False),
}

# (id, values, score by epoch, how it ended)
TRIALS: dict[str, tuple[dict[str, Any], list[float], str]] = {
    "base0001": ({}, [0.10, 0.20, 0.30], "reached"),
    "best0002": ({"lr": 2e-3, "box_loss": "giou"}, [0.15, 0.25, 0.32, 0.35, 0.38, 0.42, 0.41, 0.40, 0.40], "reached"),
    "low00003": ({"lr": 5e-4, "box_loss": "smooth_l1"}, [0.05], "reached"),
    "div00004": ({"lr": 9e-3, "box_loss": "giou"}, [], "diverged"),
    "fail0005": ({"lr": 7e-3, "box_loss": "smooth_l1"}, [], "failed"),
    "stop0006": ({"lr": 3e-3, "box_loss": "giou"}, [0.12], "interrupted"),
}


def epoch_record(
    trial: str, epoch: int, score: float, time: float, seconds: float = 2.0, **more: Any
) -> dict[str, Any]:
    """An epoch as the journal has it."""
    others = ("AP75", "AP_small", "AP_medium", "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
    return {
        "event": "epoch", "time": time, "trial": trial, "epoch": epoch, "train_loss": 1.5, "classification_loss": 1.0, "box_loss": 0.5,
        "metrics": {"mAP": score, "AP50": round(1.5 * score, 4), "AP_large": -1.0, **dict.fromkeys(others, score / 2)},
        "per_class": {"car": score, "tram": -1.0}, "best_f1_scores": {"car": 0.4, "tram": 0.5}, "lr": 1e-3,
        "train_seconds": 0.75 * seconds, "eval_seconds": 0.25 * seconds, "seconds": seconds, "leg": 1, "threads": 1, **more,
    }  # fmt: skip


@dataclass
class Story:
    """A study being written, line by line."""

    folder: Path
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, event: str, time: float, **values: Any) -> None:
        self.records.append({"event": event, "time": time, **values})

    def start(self, time: float, resumed: bool, slots: int = 2) -> None:
        """A command's first two lines: started at `time`, it takes the study a second later."""
        self.add("lease_taken", time + 1.0, host="here", generation=2 if resumed else 1)
        self.add(
            "session_started", time + 1.0, started=time, resumed=resumed, slots=slots, threads=1, device="CPU", trials=6,
            max_hours=None,
        )  # fmt: skip

    def create(self, trial: str, values: dict[str, Any], time: float, role: str = "search", seed: int = 0) -> None:
        config = BASE.with_values(values)
        self.add(
            "trial_created", time, trial=trial, role=role, config_hash=config.hash(), config=config.active_dict(), varied=values,
            seed=seed, proposal=len(self.records) or None,
        )  # fmt: skip

    def train(
        self, trial: str, scores: list[float], first: int, time: float, outcome: str = "reached", to: int | None = None
    ) -> float:
        """A leg of two-second epochs; returns the time at its end."""
        target = to or first + len(scores) - 1
        self.add("leg_started", time, trial=trial, leg=1, from_epoch=first - 1, to_epoch=target, threads=1)
        for offset, score in enumerate(scores):
            time += 2.0
            self.records.append(epoch_record(trial, first + offset, score, time))
        reason = {"diverged": "loss became nan at step 7", "failed": "ValueError: no"}.get(outcome, "")
        self.add("leg_ended", time, trial=trial, outcome=outcome, reason=reason)
        return time

    def write(self) -> Path:
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        (self.folder / "journal.jsonl").write_text(lines)
        return self.folder


def make_plan(folder: Path) -> dict[str, Any]:
    """study.json with the keys that search.plan writes."""
    space = ResolvedSpace(
        "small", "cpu", BASE, dict(FIELDS), Budget(trials=6, epochs=9, grace=1), ["canvas 128 x 512 fitted"]
    )
    return {
        "format": 1, "name": folder.name, "space": space.to_dict(), "profile": "cpu", "metric": "mAP", "seed": 0, "sampler": "tpe",
        "scheduler": "asha", "levels": LEVELS, "eta": 3, "grace": 1, "epochs": 9, "trials": 6, "max_hours": None, "official_eval": False,
        "skip_bad": False, "space_option": "small", "shown_images": [],
        "source": {"name": "hand-made", "train": ["/no/train.json", "/no/images"], "val": ["/no/val.json", "/no/images"], "test": None},
        "dataset": {
            "name": "hand-made <b>&</b>", "fingerprint": "0123456789abcdef", "train_images": 32, "val_images": 16, "test_images": 0,
            "train_boxes": 90, "val_boxes": 40, "classes": ["car", "tram"], "full_turn": False, "area_ranges_px": [32.0, 96.0],
        },
        "dropped": [], "versions": {"python": "3.11.0", "torch": "2.14.1"}, "commit": "abc", "command": "python -m search.run --space small",
    }  # fmt: skip


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """An empty study folder with a plan."""
    folder = tmp_path / "study-1"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(make_plan(folder)))
    return Story(folder)


@pytest.fixture
def study(story: Story) -> Path:
    """The folder of the six trials. Sessions: 100 .. 130 and 1000 .. 1040; each epoch took two seconds."""
    story.start(100.0, resumed=False)
    for trial, start in (("base0001", 102.0), ("best0002", 102.0), ("low00003", 106.0)):
        values, scores, _ = TRIALS[trial]
        story.create(trial, values, start)
        story.train(trial, scores[:1], 1, start)
    story.add("promoted", 110.0, trial="best0002", rung=0, to_epoch=3)
    story.train("best0002", TRIALS["best0002"][1][1:3], 2, 110.0)
    story.create("div00004", TRIALS["div00004"][0], 114.0)
    story.train("div00004", [], 1, 114.0, "diverged", to=1)
    story.add("promoted", 116.0, trial="base0001", rung=0, to_epoch=3)
    story.train("base0001", TRIALS["base0001"][1][1:3], 2, 126.0)
    story.start(1000.0, resumed=True)
    story.add("promoted", 1002.0, trial="best0002", rung=1, to_epoch=9)
    story.train("best0002", TRIALS["best0002"][1][3:], 4, 1002.0)
    story.create("fail0005", TRIALS["fail0005"][0], 1014.0)
    story.train("fail0005", [], 1, 1014.0, "failed", to=1)
    story.create("stop0006", TRIALS["stop0006"][0], 1020.0)
    story.train("stop0006", TRIALS["stop0006"][1], 1, 1020.0, "interrupted", to=3)
    story.add("trial_pruned", 1039.0, trial="low00003", reason="3rd of 4 at the rung of 1, where the top 1 went on")
    story.add("trial_pruned", 1039.0, trial="base0001", reason="2nd of 2 at the rung of 3, where the top 0 went on")
    story.add("study_ended", 1040.0, reason="interrupted")
    return story.write()


STEPS: list[dict[str, Any]] = [
    {"name": "base", "about": "", "changes": {}, "values": {},
     "reported": {"mAP": 0.04, "ms_per_batch": 130.0, "parameters": 2_590_880}},
    {"name": "+giou", "about": "", "changes": {"box_loss": "giou"}, "values": {"box_loss": "giou"},
     "reported": {"mAP": None, "ms_per_batch": None, "parameters": None}},
    {"name": "+deep_heads", "about": "", "changes": {"head_depth": 4}, "values": {"box_loss": "giou", "head_depth": 4},
     "reported": {"mAP": 0.05, "ms_per_batch": 396.0, "parameters": 45_736_288}},
]  # fmt: skip
# Last epochs by (step, seed). The best epoch, the first, is higher: the table must not pick it.
SCORES = {("base", 0): 0.10, ("base", 1): 0.14, ("+giou", 0): 0.13, ("+giou", 1): 0.15, ("+deep_heads", 1): 0.12}


@pytest.fixture
def chain(story: Story) -> Path:
    plan = read_plan(story.folder)
    plan |= {
        "kind": "ablation",
        "steps": STEPS,
        "levels": [2],
        "epochs": 2,
        "trials": 6,
        "scheduler": "none",
        "sampler": "chain",
    }
    (story.folder / "study.json").write_text(json.dumps(plan))
    story.start(0.0, resumed=False, slots=1)
    values = {step["name"]: step["values"] for step in STEPS}
    for (step, seed), score in SCORES.items():
        trial = f"{step}{seed}"
        story.create(trial, values[step], 2.0, role="ablation", seed=seed)
        story.records[-1]["step"] = step
        story.train(trial, [score + 0.05, score], 1, 2.0, to=2)
    story.create("late", values["+deep_heads"], 20.0, role="ablation", seed=0)
    story.records[-1]["step"] = "+deep_heads"
    story.train("late", [0.9], 1, 20.0, outcome="interrupted", to=2)
    story.add(
        "step_profiled", 30.0, step="+giou", trainable_parameters=1234, ms_per_batch=20.5, images_per_s=390.0, batch_size=8,
        device="cpu, 2 threads",
    )  # fmt: skip
    story.add("study_ended", 31.0, reason="interrupted")
    return story.write()


@pytest.fixture
def seen(study: Path) -> Path:
    """The hand-written study with ground truth and the best trial's detections: 96 images in pairs, two classes."""
    truth, found = scene(0, images=96, classes=2)
    plan = read_plan(study)
    plan["dataset"]["val_images"] = 96
    (study / "study.json").write_text(json.dumps(plan))
    truth["categories"] = [{"id": 1, "name": "car"}, {"id": 2, "name": "tram"}]
    for row in truth["images"]:
        row |= {"file_name": f"{row['id']}.png", "sequence": (row["id"] - 1) // 2}
    (study / GROUND_TRUTH_NAME).write_text(json.dumps(truth))
    for trial in ("best0002", "base0001"):
        (study / "trials" / trial).mkdir(parents=True)
        (study / "trials" / trial / "detections.json").write_text(json.dumps(found))
    return study


@pytest.fixture
def finals(study: Path, story: Story) -> Path:
    """The same with three fresh seeds of the best and of the base."""
    story.records = [json.loads(line) for line in (study / "journal.jsonl").read_text().splitlines()][:-1]
    for seed in (1, 2, 3):
        for trial, values, score in (("b", {"lr": 2e-3, "box_loss": "giou"}, 0.38), ("a", {}, 0.38)):
            name = f"{trial}{seed}"
            story.create(name, values, 1030.0, role="final", seed=seed)
            story.records[-1]["to_epoch"] = 9
            story.train(name, [score + 0.01 * seed * (1 if trial == "b" else -1)], 9, 1030.0, to=9)
    story.add("study_ended", 1040.0, reason="done")
    return story.write()
