"""What a user asks of a running study: left where it lives by search.control, taken up by the driver, journaled, then done.

A request is a small file `requests/<id>.json`: {"ask": "stop"}, {"ask": "prune", "trial": ..} or {"ask": "add", "values": {..}}.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from detector.config import ConfigError
from search.engine import Engine
from search.storage.copies import REQUESTS
from search.storage.store import FolderStore, StorageError, Store
from spaces.distributions import as_tuple

LOOK_EVERY_S = 1.0
LOOK_IN_STORE_EVERY_S = 5.0  # where every look is a request that is billed


def post(store: Store, ask: str, **details: Any) -> str:
    """Leaves a request for the driver of a study; returns its id."""
    request = f"{time.time_ns()}-{os.getpid()}"
    store.put(f"{REQUESTS}{request}.json", json.dumps({"ask": ask, **details}).encode())
    return request


def drop_old_stops(store: Store) -> None:
    """Takes away requests to stop that nobody was there to follow: a study that is resumed is wanted."""
    for name, request in _posted(store):
        if request["ask"] == "stop":
            store.delete(name)


def _posted(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """Requests by name, first posted first; what is no request is passed over."""
    found = []
    for name in sorted(name for name in store.sizes(REQUESTS) if name.endswith(".json")):
        with contextlib.suppress(ValueError):
            request = json.loads(store.get(name) or b"")
            if isinstance(request, dict) and request.get("ask") in ("stop", "prune", "add"):
                found.append((name, request))
    return found


class Inbox:
    """The requests of a study, looked for now and then; a store that does not answer is looked into later."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self.engine, self.store = engine, store
        self.every_s = LOOK_EVERY_S if isinstance(store, FolderStore) else LOOK_IN_STORE_EVERY_S
        self._looked = -self.every_s

    def take_up(self) -> None:
        """Journals what was asked since the last look, and does it."""
        now = time.monotonic()
        if now - self._looked < self.every_s:
            return
        self._looked = now
        with contextlib.suppress(StorageError):
            for name, request in _posted(self.store):
                obey(self.engine, name.removeprefix(REQUESTS).removesuffix(".json"), **request)
                self.store.delete(name)


def obey(engine: Engine, request: str, ask: str, **details: Any) -> None:
    """Does a request that is not answered yet: stops, prunes a trial, or adds values to try; or refuses it, with the reason."""
    if request in engine.state.asked:
        return
    told = {"request": request, "ask": ask, **details}
    reason = refusal(engine, ask, **details)
    if reason:
        engine.record("ask_refused", reason=reason, **told)
        return
    engine.record("asked", **told)
    if ask == "stop":
        engine.asked_to_stop = True
    elif ask == "prune" and details["trial"] not in engine.running:
        engine.judge(engine.state.trials[details["trial"]])


def refusal(engine: Engine, ask: str, trial: str = "", values: Mapping[str, Any] | None = None, **_: Any) -> str:
    """Why a request cannot be followed; "" where it can."""
    if ask == "prune":
        known = engine.state.trials.get(trial)
        return (
            f"there is no trial {trial}" if known is None else f"trial {trial} is {known.outcome}" * bool(known.outcome)
        )
    if ask == "add":
        if engine.sampler is None:
            return "an ablation trains its steps alone"
        try:
            config = engine.space.config({name: as_tuple(value) for name, value in (values or {}).items()})
            engine.check(config)
        except ConfigError as error:
            return str(error)
        if config.hash() in engine.by_config:
            return f"that configuration is trial {engine.by_config[config.hash()]}"
    return ""
