"""What a user asks of a running study: left in its folder by search.control, taken up by the driver, journaled, then done.

A request is a small file `requests/<id>.json`: {"ask": "stop"}, {"ask": "prune", "trial": ..} or {"ask": "add", "values": {..}}.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.config import ConfigError
from search.engine import Engine
from search.journal import write_atomically
from spaces.distributions import as_tuple

FOLDER = "requests"
LOOK_EVERY_S = 1.0


def post(folder: Path, ask: str, **details: Any) -> str:
    """Leaves a request for the driver of a study; returns its id."""
    request = f"{time.time_ns()}-{os.getpid()}"
    (folder / FOLDER).mkdir(exist_ok=True)
    write_atomically(folder / FOLDER / f"{request}.json", json.dumps({"ask": ask, **details}).encode())
    return request


def drop_old_stops(folder: Path) -> None:
    """Takes away requests to stop that nobody was there to follow: a study that is resumed is wanted."""
    for path, request in _posted(folder):
        if request["ask"] == "stop":
            path.unlink(missing_ok=True)


def _posted(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Requests, first posted first; what is no request is passed over."""
    found = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            request = json.loads(path.read_bytes())
            if isinstance(request, dict) and request.get("ask") in ("stop", "prune", "add"):
                found.append((path, request))
    return found


class Inbox:
    """The requests of a study's folder, looked for once a second at most."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self._looked = -LOOK_EVERY_S

    def take_up(self) -> None:
        """Journals what was asked since the last look, and does it."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        for path, request in _posted(self.folder):
            obey(self.engine, path.stem, **request)
            path.unlink(missing_ok=True)


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
