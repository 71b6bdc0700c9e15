"""One leg on a worker: from a trial's checkpoint to its rung, an epoch a step, everything left in the trial's folder.

`LegRunner` knows nothing of Ray; `LegTrainable` hands it to Ray Tune.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import time
import traceback
from pathlib import Path
from typing import Any

from ray.tune import Trainable

from results.state import metric_of
from search.journal import write_atomically

CHECKPOINT, BEST, DETECTIONS, THREADS, LOG, ERROR = (
    "checkpoint.pt", "best.pt", "detections.json", "threads", "log.txt", "error.txt",
)  # fmt: skip

# The decoded datasets that this process has opened, by (source, canvas, split): the next leg on it starts at once.
_OPEN_DATA: dict[tuple[str, tuple[int, int], str], Any] = {}


class LegRunner:
    """Trains one leg epoch by epoch. Reports are plain values; what goes wrong is reported, not raised."""

    def __init__(self, leg: dict[str, Any], study: dict[str, Any]) -> None:
        self.leg, self.study = leg, study
        self.folder = Path(study["folder"]) / "trials" / leg["trial"]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trainer: Any = None
        self.threads = study["threads"]

    def step(self) -> dict[str, Any]:
        """Trains one epoch (none where the checkpoint is at the rung already).

        Returns {"epochs": results to journal, "outcome": "" while it goes on, else reached / diverged / infeasible /
        error, "reason": ...}.
        """
        from detector.trainer import DivergedError

        epochs: list[dict[str, Any]] = []
        try:
            if self.trainer is None:
                self.trainer = self._open()
                epochs = [
                    {**self._report(result), "absorbed": True} for result in self.trainer.history
                ]  # what the journal may lack
            if self.trainer.epoch < self.leg["to_epoch"]:
                epochs.append(self._train_epoch())
        except DivergedError as error:
            return self._end(epochs, "diverged", str(error), step=error.step)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # nothing is wrong with the trial: it goes on when there is room
                return self._end(epochs, "interrupted", "the disk is full", disk_full=True)
            return self._error(epochs, error)
        except MemoryError:
            return self._end(epochs, "infeasible", "out of memory")
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":
                return self._end(epochs, "infeasible", "out of memory on the device")
            return self._error(epochs, error)
        reached = self.trainer.epoch >= self.leg["to_epoch"]
        return self._end(epochs, "reached" if reached else "")

    def _error(self, epochs: list[dict[str, Any]], error: Exception) -> dict[str, Any]:
        (self.folder / ERROR).write_text("".join(traceback.format_exception(error)))
        return self._end(epochs, "error", f"{type(error).__name__}: {error}")

    def _end(self, epochs: list[dict[str, Any]], outcome: str, reason: str = "", **details: Any) -> dict[str, Any]:
        if outcome:
            self._log(f"leg {self.leg['number']} ended: {outcome} {reason}".rstrip())
        return {"epochs": epochs, "outcome": outcome, "reason": reason, **details}

    def _open(self) -> Any:
        import torch

        from detector.config import DetectorConfig
        from detector.trainer import Trainer, load_checkpoint

        torch.set_num_threads(self.threads)
        config = DetectorConfig.from_dict(self.leg["config"])
        data = open_data(self.study["source"], config.image_size_px, self.study["skip_bad"], config.train_split)
        trainer = Trainer(config, data, self.leg["seed"], self.study["device"], self.study["official_eval"])
        (self.folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
        state = load_checkpoint(self.folder / CHECKPOINT)
        if state is not None:
            trainer.load_state_dict(state)
        self._log(f"leg {self.leg['number']}: epochs {trainer.epoch} -> {self.leg['to_epoch']}, {self.threads} threads")
        return trainer

    def _train_epoch(self) -> dict[str, Any]:
        import torch

        from detector.trainer import save_checkpoint, save_weights

        self._follow_thread_change(torch)
        result = self.trainer.step()
        state = self.trainer.state_dict()
        scores = [metric_of(row.to_dict(), self.study["metric"]) for row in self.trainer.history]
        if all(math.isnan(earlier) or scores[-1] > earlier for earlier in scores[:-1]):
            write_atomically(self.folder / DETECTIONS, json.dumps(self.trainer.detections).encode())
            save_weights(state, self.folder / BEST)
        save_checkpoint(state, self.folder / CHECKPOINT)
        self._log(
            f"epoch {result.epoch}: loss {result.train_loss:.4f} mAP {result.metrics['mAP']:.4f} "
            f"AP50 {result.metrics['AP50']:.4f} in {result.seconds:.1f} s"
        )
        return self._report(result)

    def _report(self, result: Any) -> dict[str, Any]:
        return {**result.to_dict(), "seconds": result.seconds, "leg": self.leg["number"], "threads": self.threads}

    def _follow_thread_change(self, torch: Any) -> None:
        """A leg that is left alone on the machine may use all its cores; the driver says so in a file."""
        file = self.folder / THREADS
        wanted = int(file.read_text()) if file.is_file() else self.study["threads"]
        if wanted != self.threads:
            self.threads = wanted
            torch.set_num_threads(wanted)
            self._log(f"{wanted} threads from here on")

    def _log(self, line: str) -> None:
        with contextlib.suppress(OSError), (self.folder / LOG).open("a") as file:  # a full disk ends no leg over a line
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def open_data(source: dict[str, Any], canvas: tuple[int, int], skip_bad: bool, train_split: str) -> Any:
    """The training data on a canvas, opened once per process."""
    from detector.data.batches import load_training_data
    from detector.data.dataset import DataSource

    key = (json.dumps(source, sort_keys=True), (canvas[0], canvas[1]), train_split)
    if key not in _OPEN_DATA:
        _OPEN_DATA[key] = load_training_data(DataSource.from_dict(source), canvas, skip_bad, train_split)
    return _OPEN_DATA[key]


class LegTrainable(Trainable):
    """Ray Tune's view of a leg: one process per slot imports torch once and is reused from leg to leg."""

    def setup(self, config: dict[str, Any]) -> None:
        self.runner = LegRunner(**json.loads(config["leg"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.runner = LegRunner(**json.loads(new_config["leg"]))
        return True

    def step(self) -> dict[str, Any]:
        report = self.runner.step()
        return {"report": json.dumps(report), "done": bool(report["outcome"])}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a leg's state lies in the trial's folder, and the journal says what is to be trained."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, as above."""
