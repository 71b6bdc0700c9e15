"""Runs an engine's legs on Ray Tune: a Tune trial is one leg, Tune places it, the engine decides what it is.

Tune starts legs in order, and its own state is never read again: a study resumes from the journal. Import this module
after `ray_session.start_ray`, which sets what ray reads when it is imported.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import NoopStopper

from search.engine import WITHDRAWN, Engine
from search.journal import write_atomically
from search.leg import THREADS, LegRunner
from search.requests import Inbox
from search.resources import Resources
from search.storage.store import open_store
from search.storage.trial_files import leg_name

ANSWER_WITHIN_S = 2.0


class LegTrainable(tune.Trainable):
    """Ray Tune's view of a leg: one process per slot imports torch once and is reused from leg to leg."""

    def setup(self, config: dict[str, Any]) -> None:
        self.runner = LegRunner(**json.loads(config["leg"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.runner = LegRunner(**json.loads(new_config["leg"]))
        return True

    def step(self) -> dict[str, Any]:
        report = self.runner.step()
        node = ray.get_runtime_context().get_node_id()
        return {"report": json.dumps(report), "node": node, "done": bool(report["outcome"])}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a leg's state lies in the trial's folder, and the journal says what is to be trained."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, as above."""


class LegSearcher(Searcher):
    """Tune asks it for the next trial; it asks the engine for the next leg."""

    def __init__(
        self,
        engine: Engine,
        study: dict[str, Any],
        resources: Resources,
        on_change: Callable[[], None],
        stopping: Callable[[], bool],
        legs: dict[str, str],
    ) -> None:
        super().__init__(metric=None, mode=None)
        self.engine, self.study, self.resources = engine, study, resources
        self.on_change, self.stopping = on_change, stopping
        self.legs = legs  # our trial by Tune's trial id
        self.store = open_store(study.get("storage") or study["folder"])
        self.nodes: dict[str, str] = {}  # where a leg was last heard of

    def suggest(self, trial_id: str) -> Any:
        assert len(self.engine.running) < self.resources.slots, "asked for a leg while no slot is free"
        with self.engine.journal.group():
            leg = self.engine.next_leg(threads=self.resources.threads)
        if leg is None:
            if self.engine.idle:
                return Searcher.FINISHED
            self._give_all_cores_to_a_lone_leg()
            return None
        self.legs[trial_id] = leg.trial
        # Whoever still trains an earlier leg, taken for lost, finds that it is not the trial's any more.
        self.store.put(leg_name(leg.trial), f"{self.study.get('generation', 0)} {leg.number}".encode())
        (Path(self.study["folder"]) / "trials" / leg.trial / THREADS).unlink(missing_ok=True)
        self.on_change()
        # One text each way: Tune flattens nested values and puts every one of them into its trial names.
        return {"leg": json.dumps({"leg": asdict(leg), "study": self.study})}

    def _give_all_cores_to_a_lone_leg(self) -> None:
        """Nothing can start before the last running leg ends: it may have every core until then."""
        if len(self.engine.running) != 1 or self.resources.lone_threads == self.resources.threads:
            return
        if self.study.get("storage"):  # the worker looks into a folder of its node
            return
        file = Path(self.study["folder"]) / "trials" / next(iter(self.engine.running)) / THREADS
        if not file.is_file():  # Tune asks many times while a leg runs; the worker may be reading
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, str(self.resources.lone_threads).encode())

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.nodes[trial_id] = str(result.get("node", ""))
        with self.engine.journal.group():
            self._take_epochs(self.legs[trial_id], _report_of(result))
        self.on_change()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self.legs.pop(trial_id, None)
        if trial is None:
            return
        with self.engine.journal.group():
            self._end_leg(trial_id, trial, _report_of(result), error)
        self.on_change()

    def _end_leg(self, trial_id: str, trial: str, report: dict[str, Any], error: bool) -> None:
        self._take_epochs(trial, report)
        if report.get("outcome") and not error:
            details = {key: value for key, value in report.items() if key not in ("epochs", "outcome")}
            self.engine.on_leg_end(trial, report["outcome"], **details)
        elif self.engine.is_withdrawn(trial) and not error:
            self.engine.on_leg_end(trial, "withdrawn", reason=WITHDRAWN)
        elif self.stopping():
            self.engine.on_leg_end(trial, "interrupted", reason="the study was stopped")
        else:
            alive = self._node_alive(trial_id)
            reason = "its worker ended" if alive else "its node died"
            self.engine.on_leg_end(trial, "lost", reason=reason, node_alive=alive)

    def _node_alive(self, trial_id: str) -> bool:
        """Whether the node of a leg still lives; of one never heard of, whether all do.

        Ray misses a node some fifteen seconds after its workers: asked directly, a dead one does not answer.
        """
        nodes = {node["NodeID"]: node for node in ray.nodes()}
        known = self.nodes.get(trial_id)
        asked = [nodes[known]] if known in nodes else list(nodes.values())
        return all(node["Alive"] and (len(nodes) < 2 or answers(node)) for node in asked)

    def _take_epochs(self, trial: str, report: dict[str, Any]) -> None:
        for epoch in report.get("epochs", []):
            self.engine.on_epoch(trial, epoch)

    def __reduce__(self) -> Any:
        """Tune writes its parts down to restore them; ours live in the journal, so an empty one stands in."""
        return Searcher, ()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""


def answers(node: Mapping[str, Any]) -> bool:
    """Whether a node's raylet takes a connection."""
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), ANSWER_WITHIN_S).close()
    except OSError:
        return False
    return True


def _report_of(result: dict[str, Any] | None) -> dict[str, Any]:
    """What the leg's last step said; nothing where it never came to one."""
    report = json.loads((result or {}).get("report", "{}"))
    assert isinstance(report, dict)
    return report


class KeepsStarting(FIFOScheduler):
    """First in, first out, but a process that starts is waited for.

    Tune moves a leg that its scheduler chooses onto any process that has just become free, and throws the one away that
    was starting for it. Where legs are shorter than a start (on a cold host, on a busy one), a slot so never comes to
    train. Here the free process goes to the next leg; where there is none, it still goes to one whose process starts.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first leg that waits for a place in the cluster."""
        waiting = (trial for trial in tune_controller.get_trials() if trial.status == Trial.PENDING)
        return next((trial for trial in waiting if not is_starting(tune_controller, trial)), None)


def is_starting(tune_controller: Any, trial: Any) -> bool:
    """Whether a leg has its place, and a process there that is not ready yet.

    Tune tells its schedulers nothing of that. It is read from its own parts as they are in Ray 2.60; False where they are
    otherwise, which is Tune's own order.
    """
    with contextlib.suppress(AttributeError):
        process = tune_controller._trial_to_actor.get(trial)
        return bool(process and tune_controller._actor_manager.is_actor_started(process))
    return False


class StopWhenAsked(tune.Stopper):
    """Ends every leg at its next epoch once the study's hours are over, one that a user withdrew, and all at once when
    interrupted."""

    def __init__(self, engine: Engine, interruption: Interruption, legs: Mapping[str, str]) -> None:
        self.engine, self.interruption, self.legs = engine, interruption, legs

    @property
    def asked(self) -> bool:
        """Whether legs end before their rung because somebody wants it so."""
        return self.interruption.happened or self.engine.stopping

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.engine.stopping or self.engine.is_withdrawn(self.legs.get(trial_id, ""))

    def stop_all(self) -> bool:
        return self.interruption.happened

    def __reduce__(self) -> Any:
        """As the searcher: nothing of Tune's own state is ever read again."""
        return NoopStopper, ()


class TakesUpRequests(tune.Callback):
    """Looks into the study's inbox between two steps of Tune's loop, which is where the engine is at rest."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.inbox.take_up()

    def __reduce__(self) -> Any:
        """As the searcher."""
        return tune.Callback, ()


class Interruption:
    """Ctrl-C and SIGTERM end the study cleanly; a second one ends it at once (the journal is whole either way)."""

    def __init__(self, is_writing: Callable[[], bool] = lambda: False) -> None:
        self.happened = False
        self.is_writing = is_writing  # a journal that is cut off in the middle of a write may not be whole

    def __enter__(self) -> Interruption:
        self._old = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.happened and not self.is_writing():
            raise KeyboardInterrupt
        self.happened = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def run_legs(
    engine: Engine, study: dict[str, Any], resources: Resources, inbox: Inbox, on_change: Callable[[], None]
) -> bool:
    """Trains until the engine has nothing left; returns whether it was interrupted (Ctrl-C or SIGTERM).

    Ray must be running.
    """
    for name in ("ray.tune", "ray.tune.tune", "ray.tune.execution.tune_controller"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with (
        tempfile.TemporaryDirectory(prefix="dsearch-") as scratch,
        Interruption(lambda: getattr(engine.journal, "writing", False)) as interruption,
    ):
        legs: dict[str, str] = {}
        stop = StopWhenAsked(engine, interruption, legs)
        searcher = LegSearcher(engine, study, resources, on_change, lambda: stop.asked, legs)
        tuner = tune.Tuner(
            tune.with_resources(LegTrainable, tune.PlacementGroupFactory([resources.per_trial])),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=resources.slots,
                reuse_actors=True,
                scheduler=KeepsStarting(),
            ),
            run_config=tune.RunConfig(
                name="legs",
                storage_path=scratch,
                verbose=0,
                stop=stop,
                failure_config=tune.FailureConfig(max_failures=0),
                callbacks=[TakesUpRequests(inbox)],
            ),
        )
        with contextlib.suppress(KeyboardInterrupt):
            tuner.fit()
    for trial in list(engine.running):
        engine.on_leg_end(trial, "interrupted", reason="the study was stopped")
    return interruption.happened
