"""One driver at a time, in a folder and in a real S3 server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import pytest

from results.records import JournalError
from search.storage import lease as module
from search.storage.lease import Lease, LeaseLostError
from search.storage.store import Store

Opened = Callable[[], Store]
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def unhurried(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats that are long beside a request to a busy server, as real ones are: a claim that is given up lives for less than one."""
    monkeypatch.setattr(module, "BEAT_S", 1.0)
    monkeypatch.setattr(module, "WATCH_S", 10.0)


def claim_of_elsewhere(store: Store, generation: int, **more: object) -> str:
    """A claim as a driver on another machine leaves it."""
    name = f"lease/{generation:08d}-0123456789ab.json"
    told = {
        "beat": 7,
        "released": False,
        "generation": generation,
        "host": "elsewhere",
        "pid": 1,
        "place": "other",
        **more,
    }
    store.put(name, json.dumps(told).encode())
    return name


def test_each_driver_has_a_generation_of_its_own(opened: Opened) -> None:
    generations = []
    for _ in range(3):
        lease = Lease.take(opened())
        generations.append(lease.generation)
        lease.release()
    assert generations == [1, 2, 3]
    assert len(opened().sizes("lease/")) == 1, "claims that are over are cleared away"


def test_a_living_driver_elsewhere_is_not_taken_over_from(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_S", 50 * module.BEAT_S)  # a busy machine may hold the other's beats up
    store, ended = opened(), threading.Event()

    def live() -> None:
        beat = 0
        while not ended.is_set():
            claim_of_elsewhere(opened(), 4, beat=beat)
            beat += 1
            time.sleep(0.05)

    claim_of_elsewhere(store, 4)
    other = threading.Thread(target=live)
    other.start()
    try:
        with pytest.raises(JournalError, match=r"another search is running in it \(host elsewhere, process 1\)"):
            Lease.take(opened())
    finally:
        ended.set()
        other.join()


def test_a_claim_that_cannot_be_read_for_a_moment_is_not_gone(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, real = [], module._read

    def now_and_then(store: Store, name: str) -> dict[str, object]:
        reads.append(name)
        return {} if len(reads) % 2 else real(store, name)

    holder = Lease.take(opened())
    monkeypatch.setattr(module, "_is_dead_here", lambda claim: False)
    monkeypatch.setattr(module, "_read", now_and_then)
    monkeypatch.setattr(module, "WATCH_S", 50 * module.BEAT_S)
    with pytest.raises(JournalError, match="another search is running in it"):
        Lease.take(opened())
    assert len(reads) >= 3
    holder.release()


def test_one_that_beats_no_more_is_taken_over_from(opened: Opened) -> None:
    claim_of_elsewhere(opened(), 4)
    lease = Lease.take(opened())
    assert lease.generation == 5
    lease.release()


def test_a_dead_process_of_this_machine_is_not_waited_for(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_S", 1e9)
    claim_of_elsewhere(opened(), 2, pid=2**22 - 1, place=module._process_space())
    lease = Lease.take(opened())
    assert lease.generation == 3
    lease.release()


def test_a_revived_driver_finds_that_it_was_taken_over_from(opened: Opened) -> None:
    old = Lease.take(opened())
    old._ended.set()  # its machine stands still
    assert old._thread is not None
    old._thread.join()
    name = opened().sizes("lease/").popitem()[0]
    told = json.loads(opened().get(name) or b"")
    opened().put(name, json.dumps({**told, "place": "another machine"}).encode())
    new = Lease.take(opened())
    time.sleep(module.BEAT_S)
    with pytest.raises(LeaseLostError, match=r"another driver has taken this study over \(host .*\); this one stops"):
        old.check()
    new.check()
    new.release()


def test_one_gives_way_to_a_claim_of_a_lower_generation_that_came_while_it_watched_another(
    opened: Opened, unhurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = opened(), module._refuse_if_one_lives
    watched = claim_of_elsewhere(store, 1, released=True)
    late: list[Lease] = []

    def meanwhile(other: Store, names: list[str]) -> None:
        real(other, names)
        if names and not late:  # the claim that was watched goes, and another driver takes the generation that it had
            other.delete(watched)
            late.append(Lease.take(opened()))
            assert late[0].generation == 1

    monkeypatch.setattr(module, "_is_dead_here", lambda claim: False)
    monkeypatch.setattr(module, "_refuse_if_one_lives", meanwhile)
    with pytest.raises(JournalError, match="another search is running in it"):
        Lease.take(store)
    late[0].check()
    late[0].release()


def test_a_living_driver_is_seen_below_a_claim_that_is_given_up_meanwhile(
    opened: Opened, unhurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, real = Lease.take(opened()), module._refuse_if_one_lives
    higher = claim_of_elsewhere(opened(), 2)

    def meanwhile(store: Store, names: list[str]) -> None:
        store.delete(higher)  # its driver has seen the holder's claim and gives way
        real(store, names)

    monkeypatch.setattr(module, "_is_dead_here", lambda claim: False)
    monkeypatch.setattr(module, "_refuse_if_one_lives", meanwhile)
    with pytest.raises(JournalError, match="another search is running in it"):
        Lease.take(opened())
    holder.release()


def test_a_higher_claim_that_is_given_up_stops_nobody(opened: Opened) -> None:
    holder, store = Lease.take(opened()), opened()
    time.sleep(module.BEAT_S)
    higher = claim_of_elsewhere(store, 2)
    with pytest.MonkeyPatch.context() as patch:

        def meanwhile(seconds: float) -> None:
            patch.undo()
            store.delete(higher)

        patch.setattr(module.time, "sleep", meanwhile)
        holder.check()
    assert higher not in store.sizes("lease/"), "it was seen"
    holder.release()


def test_one_that_was_taken_over_from_keeps_nobody_away(opened: Opened) -> None:
    old = Lease.take(opened())
    claim_of_elsewhere(opened(), 5, released=True)
    assert old._thread is not None
    old._thread.join(timeout=60)
    assert not old._thread.is_alive(), "it beats on"
    new = Lease.take(opened())
    assert new.generation == 6
    new.release()


def test_of_many_who_claim_at_once_one_gets_it(opened: Opened, unhurried: None) -> None:
    got: list[Lease] = []
    refused: list[JournalError] = []

    def claim() -> None:
        try:
            got.append(Lease.take(opened()))
        except JournalError as error:
            refused.append(error)

    # One process would take its own claims for dead ones.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_is_dead_here", lambda claim: False)
        threads = [threading.Thread(target=claim) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(got) <= 1, [lease.generation for lease in got]
    assert len(got) + len(refused) == 6
    for lease in got:
        lease.release()
