"""One leg on a worker: from a trial's checkpoint to its rung, an epoch a step, everything left in the trial's folder.

It knows nothing of Ray: placement.py hands it to Ray Tune.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import json
import math
import os
import resource
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detector.identity import weights_path
from detector.memory import give_back_freed_memory, keep_freed_memory
from results.records import PLAN_NAME
from results.state import metric_of
from search.journal import write_atomically
from search.probe import measure_costs, probe_seconds
from search.storage.data import check_fingerprint, source_here
from search.storage.store import UnfitNodeError
from search.storage.trial_files import SupersededError, TrialFiles
from search.storage.trouble import storage_trouble

CHECKPOINT, BEST, BEFORE_DECAY, DETECTIONS, THREADS, LOG, ERROR = (
    "checkpoint.pt", "best.pt", "before_decay.pt", "detections.json", "threads", "log.txt", "error.txt",
)  # fmt: skip
OUT_OF_MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
)  # of torch's RuntimeErrors
# Less plain words, which mean it under a limit: of oneDNN (the first as measured), of a thread's stack, of the loader.
AT_THE_LIMIT_WORDS = (
    "could not create a primitive", "could not execute a primitive", "can't start new thread", "failed to map segment",
)  # fmt: skip

# The decoded datasets that this process has opened, by (source, canvas, split): the next leg on it starts at once.
_OPEN_DATA: dict[tuple[str, tuple[int, int], str], Any] = {}


class LegRunner:
    """Trains one leg epoch by epoch. Reports are plain values; what goes wrong is reported, not raised."""

    def __init__(self, leg: dict[str, Any], study: dict[str, Any]) -> None:
        self.leg, self.study = leg, study
        self.files = TrialFiles(study, leg["trial"])
        self.folder = self.files.folder
        self.trainer: Any = None
        self.threads = study["threads"]
        self.costs: dict[str, float] = {}

    def step(self) -> dict[str, Any]:
        """Trains one epoch within the trial's memory, and gives it back where that was too little (see `_step`)."""
        with memory_limit(self.study.get("memory_gb")):
            report = self._step()
        if report["outcome"] == "out_of_memory":  # the next leg of this process needs it
            self.trainer = None
            gc.collect()
        if report["outcome"]:  # others may need it while this process waits for its next leg
            give_back_freed_memory()
        return report

    def _step(self) -> dict[str, Any]:
        """Trains one epoch (none where the checkpoint is at the rung already).

        Returns {"epochs": results to journal, "outcome": "" while it goes on, else reached / diverged / out_of_memory /
        error / probed / interrupted, "reason": ...}.
        """
        from detector.trainer import DivergedError

        epochs: list[dict[str, Any]] = []
        try:
            if self.trainer is None:
                check_node(self.study, self.leg["config"])
                self.files.begin()
                self.files.bring(LOG)
                self.trainer = self._open()
                if self.leg["probe"]:
                    return self._end([], "probed", seconds_per_epoch=probe_seconds(self.trainer))
                epochs = [
                    {**self._report(result), "absorbed": True} for result in self.trainer.history
                ]  # what the journal may lack
            if self.trainer.epoch < self.leg["to_epoch"]:
                epochs.append(self._train_epoch())
        except SupersededError as error:
            self.files.end()
            return {"epochs": [], "outcome": "interrupted", "reason": str(error)}
        except DivergedError as error:
            return self._end(epochs, "diverged", str(error), step=error.step)
        except Exception as error:
            trouble = storage_trouble(error)
            if trouble:  # nothing is wrong with the trial: it goes on when there is room
                reason = f"node {socket.gethostname()}: {error}"
                return self._end(epochs, "interrupted", reason, storage_trouble=trouble)
            if is_out_of_memory(error, limited=self.study.get("memory_gb") is not None):
                return self._end(epochs, "out_of_memory", str(error).splitlines()[0] if str(error) else "out of memory")
            return self._error(epochs, error)
        reached = self.trainer.epoch >= self.leg["to_epoch"]
        return self._end(epochs, "reached" if reached else "")

    def _error(self, epochs: list[dict[str, Any]], error: Exception) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            (self.folder / ERROR).write_text("".join(traceback.format_exception(error)))
            self.files.keep(ERROR)
        return self._end(epochs, "error", f"{type(error).__name__}: {error}")

    def _end(self, epochs: list[dict[str, Any]], outcome: str, reason: str = "", **details: Any) -> dict[str, Any]:
        if outcome:
            self._log(f"leg {self.leg['number']} ended: {outcome} {reason}".rstrip())
            with contextlib.suppress(OSError):  # a log is worth no leg
                self.files.keep(LOG)
            self.files.end()
        return {"epochs": epochs, "outcome": outcome, "reason": reason, **details}

    def _open(self) -> Any:
        import torch

        from detector.config import DetectorConfig
        from detector.profile import reset_peak_memory
        from search.trainers import make_trainer

        torch.set_num_threads(self.threads)
        config = DetectorConfig.from_dict(self.leg["config"])
        data = open_data(self.study, config.image_size_px, config.train_split)
        # A limit begins at what is reserved, which would then be what earlier legs left as well.
        if self.study.get("memory_gb") is None:
            keep_freed_memory()
        trainer = make_trainer(
            self.study["trainer"], config, data, self.leg["seed"], self.study["device"], self.study["official_eval"],
            self.leg["micro_batch"],
        )  # fmt: skip
        (self.folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
        self._load(trainer)
        reset_peak_memory(torch.device(getattr(trainer, "device", "cpu")))
        self._log(
            f"leg {self.leg['number']}: epochs {trainer.epoch} -> {self.leg['to_epoch']}, {self.threads} threads, process {os.getpid()}"
        )
        return trainer

    def _load(self, trainer: Any) -> None:
        """Goes on from the trial's own checkpoint, else from that of the trial it follows, where there is one."""
        from detector.checkpoint import load_checkpoint

        state = load_checkpoint(self.files.bring(CHECKPOINT) / CHECKPOINT)
        if state is None and self.leg["start_from"]:
            longer = bool(self.leg["longer_schedule"])
            name = BEFORE_DECAY if longer else CHECKPOINT
            source = self.files.bring(name, of=self.leg["start_from"])
            state = load_checkpoint(source / name)
            if state is not None:
                trainer.load_state_dict(state, longer)
                self._log(f"goes on from {source}")
            return
        if state is not None:
            trainer.load_state_dict(state)

    def _train_epoch(self) -> dict[str, Any]:
        import torch

        from detector.checkpoint import save_checkpoint, save_weights

        self._follow_thread_change(torch)
        result = self.trainer.step()
        state = self.trainer.state_dict()
        self.files.check_mine((self.study.get("generation", 0), self.leg["number"]))
        if self._is_ranked_epoch():
            write_atomically(self.folder / DETECTIONS, json.dumps(self.trainer.detections).encode())
            save_weights(state, self.folder / BEST)
            self.files.keep(BEST, DETECTIONS)
        save_checkpoint(state, self.folder / CHECKPOINT)
        config = self.leg["config"]
        if (
            config["schedule"] == "constant"
            and result.epoch == config["schedule_epochs"] - config["final_decay_epochs"]
        ):
            save_checkpoint(state, self.folder / BEFORE_DECAY, keep_previous=False)  # a longer study goes on from here
            self.files.keep(BEFORE_DECAY)
        self._log(
            f"epoch {result.epoch}: loss {result.train_loss:.4f} mAP {result.metrics['mAP']:.4f} "
            f"AP50 {result.metrics['AP50']:.4f} in {result.seconds:.1f} s"
        )
        self.files.keep(
            CHECKPOINT, "config.json", LOG
        )  # the checkpoint last known is that of an epoch that is reported
        return self._report(result)

    def _is_ranked_epoch(self) -> bool:
        """Whether the epoch just trained is the one that the tables show so far."""
        scores = [metric_of(row.to_dict(), self.study["metric"]) for row in self.trainer.history]
        return self.study["rank_on"] == "last" or all(
            math.isnan(earlier) or scores[-1] > earlier for earlier in scores[:-1]
        )

    def _report(self, result: Any) -> dict[str, Any]:
        told = result.to_dict()
        if self.study.get("measured"):  # objectives that training does not change: once a leg
            self.costs = self.costs or measure_costs(self.trainer.evaluated_model(), self.trainer.device)
            told["metrics"] = {**told["metrics"], **{name: self.costs[name] for name in self.study["measured"]}}
        device = getattr(self.trainer, "device", None)
        where = {"host": socket.gethostname(), "device": device_name(device), "peak_gib": self._peak_gib(device)}
        return {**told, "seconds": result.seconds, "leg": self.leg["number"], "threads": self.threads, **where}

    def _peak_gib(self, device: Any) -> float:
        """Memory at most since the leg began: of the GPU, or of this process, mapped images included."""
        import torch

        from detector.profile import peak_memory_bytes

        return round(peak_memory_bytes(torch.device(device or "cpu")) / 2**30, 3)

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


@functools.cache
def device_name(device: Any) -> str:
    """The GPU's name, or the processor's: what an epoch's seconds compare with."""
    import torch

    from detector.profile import processor_name

    if device is not None and torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


def is_out_of_memory(error: Exception, limited: bool = False) -> bool:
    """Whether an error says that the device or the machine has no more memory.

    `limited`: under a memory limit, where libraries that cannot allocate have less plain words for it.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    words = OUT_OF_MEMORY_WORDS + (AT_THE_LIMIT_WORDS if limited else ())
    return isinstance(error, (RuntimeError, ImportError)) and any(word in str(error) for word in words)


@contextlib.contextmanager
def memory_limit(gigabytes: float | None) -> Iterator[None]:
    """Inside, this process fails to take so much more, rather than have the kernel end a process of its choice.

    Beyond what it has reserved already: the limit counts address space, and threads and libraries reserve much of it.
    """
    import detector.trainer  # noqa: F401  what it brings is not the trial's

    before = resource.getrlimit(resource.RLIMIT_DATA)
    if gigabytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (reserved_bytes() + int(gigabytes * 1e9), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def reserved_bytes() -> int:
    """Private writable address space of this process (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def check_node(study: dict[str, Any], config: Mapping[str, Any]) -> None:
    """Raises: UnfitNodeError on a node of a cluster that came later and does not see what a trial needs: the study's folder, its
    data, its weights."""
    if not study.get("cluster"):
        return
    source, link = study["source"], study["source"].get("link", "")
    data = [] if link else [path for split in ("train", "val") for path in source[split]]
    folder = [] if study.get("storage") else [Path(study["folder"]) / PLAN_NAME]
    for path in (
        *folder,
        *data,
        *([weights] if Path(weights := weights_path(str(config.get("pretrained", "")))).is_absolute() else []),
    ):
        if not Path(path).exists():
            raise UnfitNodeError(f"node {socket.gethostname()} does not see {path}: mount it there as on the others")


def open_data(study: dict[str, Any], canvas: tuple[int, int], train_split: str) -> Any:
    """The training data on a canvas, opened once per process; brought to this node first where it lies in an object store.

    Raises: UnfitNodeError where it is not what the study was planned on.
    """
    from detector.data.batches import load_training_data
    from detector.data.dataset import DataSource

    source = study["source"]
    key = (json.dumps(source, sort_keys=True), (canvas[0], canvas[1]), train_split)
    if key not in _OPEN_DATA:
        source = DataSource.from_dict(source_here(source))
        data = load_training_data(source, canvas, study["skip_bad"], train_split)
        if train_split == "train":
            check_fingerprint(data.fingerprint, study.get("fingerprint"), source.name)
        _OPEN_DATA[key] = data
    return _OPEN_DATA[key]
