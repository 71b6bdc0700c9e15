"""A trainer that sleeps where others train: what is left of a study's time is the orchestrator's."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.trainer import EpochResult

SECONDS = "SLEEPER_SECONDS"  # of an epoch, in the environment


class Sleeper:
    """The four methods of docs/own_trainer.md; the score follows from the learning rate, and grows with the epochs."""

    def __init__(self, config: Any, data: Any, seed: int, device: str | None) -> None:
        self.lr, self.epoch = config.lr, 0
        self.seconds = float(os.environ.get(SECONDS, "1"))

    def step(self) -> EpochResult:
        """Sleeps for an epoch."""
        from detector.evaluate import METRIC_NAMES
        from detector.trainer import EpochResult

        time.sleep(self.seconds)
        self.epoch += 1
        score = min(1.0, 50 * self.lr) * (1 - 0.5**self.epoch)
        return EpochResult(
            epoch=self.epoch, metrics=dict.fromkeys(METRIC_NAMES, score), per_class={}, best_f1_scores={}, train_loss=1.0, classification_loss=0.5,
            box_loss=0.5, lr=self.lr, train_seconds=self.seconds, eval_seconds=0.0,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that going on needs."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on."""
        self.epoch = state["epoch"]
