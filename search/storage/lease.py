"""Who may write a study: one driver at a time, each with a generation of its own, one higher than the last.

A driver that lost its node, its network or its time may come back to life after another has taken over. It finds the other's
claim and stops; what it wrote in between is of an older generation, which whoever reads the journal leaves out.

Claims are files `lease/<generation>-<token>.json`. An object store cannot compare and swap, but lists what was put before
(Amazon S3 since December 2020): two who claim one generation cannot both miss the other, and whoever sees another gives way.
Clocks are not compared: a claim lives while its beat changes under the eyes of whoever wants to take over.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from results.records import JournalError
from search.storage.store import Store

PREFIX = "lease/"
BEAT_S = 4.0
WATCH_S = 3 * BEAT_S  # a claim that does not beat for so long is dead
TRIES = 5


class LeaseLostError(JournalError):
    """Another driver has taken the study over."""


class Lease:
    """The right to write to a store, taken by `Lease.take` and given back by `release`."""

    def __init__(self, store: Store, generation: int) -> None:
        self.store, self.generation = store, generation
        self.name = f"{PREFIX}{generation:08d}-{uuid.uuid4().hex[:12]}.json"
        self._beats, self._checked = 0, time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    @classmethod
    def take(cls, store: Store, written: int = 0) -> Lease:
        """The lease of the next generation, higher than all that were claimed and than `written`, the journal's last.

        Raises: JournalError while another driver holds the study, StorageError where the store cannot be written.
        """
        for _ in range(TRIES):
            claims = _claims(store)
            # Of every generation: one who gives way leaves a higher one for a moment, and its end says nothing of those below.
            _refuse_if_one_lives(store, claims)
            lease = cls(store, max(written, _generation(claims[-1]) if claims else 0) + 1)
            lease._beat()
            # Also one of a lower generation that came after we had looked: nobody has watched whether it lives.
            rivals = [name for name in _claims(store) if name != lease.name and name not in claims]
            if not rivals:
                for name in claims:
                    store.delete(name)
                lease._start()
                return lease
            store.delete(lease.name)
            time.sleep(random.uniform(0, BEAT_S))
        raise JournalError(f"{store.where}: others claim this study at the same time; see which of them goes on")

    def check(self) -> None:
        """Raises: LeaseLostError once another driver has taken over; asks the store no more than once a beat."""
        if time.monotonic() - self._checked < BEAT_S:
            return
        newer = self._newer()
        if newer:
            time.sleep(BEAT_S)  # one who gives way takes it back
            newer = [name for name in self._newer() if name in newer]
        if newer:
            raise LeaseLostError(
                f"{self.store.where}: another driver has taken this study over ({_told(self.store, newer[-1])}); this one stops, and "
                "what it wrote since does not count"
            )
        self._checked = time.monotonic()

    def release(self) -> None:
        """Gives the study back: the next driver need not wait."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
            if self._failing or self._thread.is_alive():
                return  # a store that is full, read-only or away: the next driver watches this claim instead
        with contextlib.suppress(OSError):
            self._beat(released=True)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._go_on_beating, daemon=True, name="lease")
        self._thread.start()

    def _newer(self) -> list[str]:
        return [name for name in _claims(self.store) if _generation(name) > self.generation]

    def _go_on_beating(self) -> None:
        """Until it is released, or another has taken over: a claim that beat on would keep the next driver away."""
        newer: list[str] = []
        while not self._ended.wait(BEAT_S):
            try:
                before, newer = newer, self._newer()
                if set(newer) & set(before):
                    return
                self._beat()
                self._failing = False
            except OSError:  # whoever writes for the study finds out by itself
                self._failing = True

    def _beat(self, released: bool = False) -> None:
        self._beats += 1
        told = {"beat": self._beats, "released": released, "generation": self.generation, **_who()}
        self.store.put(self.name, json.dumps(told).encode())


def held_elsewhere(store: Store) -> bool:
    """Whether the newest claim is of another machine's or container's process, alive or not."""
    claims = _claims(store)
    claim = _read(store, claims[-1]) if claims else {}
    return bool(claim) and not claim.get("released") and claim.get("place") != _process_space()


def _who() -> dict[str, Any]:
    """This process, so that another on the same machine can tell whether it lives."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "place": _process_space()}


def _process_space() -> str:
    """What a process number is unique in: this boot of the kernel, and this container's numbers (Linux)."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _claims(store: Store) -> list[str]:
    """The names of all claims, the newest generation's last."""
    return sorted(name for name in store.sizes(PREFIX) if name.endswith(".json"))


def _generation(name: str) -> int:
    return int(name.removeprefix(PREFIX).partition("-")[0])


def _read(store: Store, name: str) -> dict[str, Any]:
    """A claim; an empty one where it is gone or torn."""
    with contextlib.suppress(ValueError):
        told = json.loads(store.get(name) or b"{}")
        return told if isinstance(told, dict) else {}
    return {}


def _told(store: Store, name: str) -> str:
    claim = _read(store, name)
    return f"host {claim.get('host', '?')}, process {claim.get('pid', '?')}"


def _refuse_if_one_lives(store: Store, names: list[str]) -> None:
    """Raises: JournalError where the driver of one of these claims lives: its beat changes while we look."""
    seen = {name: _read(store, name) for name in names}
    watched = {name: c for name, c in seen.items() if not _is_over(store, name, c) and not _is_dead_here(c)}
    # Counted in looks, not by the clock: where this machine stands still for a while, the other may have as well.
    for _ in range(math.ceil(8 * WATCH_S / BEAT_S)):
        if not watched:
            break
        time.sleep(BEAT_S / 8)
        for name, claim in list(watched.items()):
            now = _read(store, name)
            if _is_over(store, name, now):
                del watched[name]
            elif not claim:  # it could not be read before
                watched[name] = now
            elif now and now.get("beat") != claim.get("beat"):
                raise JournalError(
                    f"{store.where}: another search is running in it (host {now.get('host')}, process {now.get('pid')}); wait for "
                    "it or stop it"
                )


def _is_over(store: Store, name: str, claim: dict[str, Any]) -> bool:
    """Whether a claim was given back. One that cannot be read, as some stores have it while it is written, is there as long
    as it is listed."""
    return bool(claim.get("released")) or (not claim and name not in _claims(store))


def _is_dead_here(claim: dict[str, Any]) -> bool:
    """Whether the claim is of a process of this very machine that is gone."""
    if not claim.get("place") or claim["place"] != _process_space():
        return False
    try:
        os.kill(int(claim["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return int(claim["pid"]) == os.getpid()  # of an earlier study of this process, which cannot be writing any more
