"""What goes wrong in clusters, done to real ones: hosts that die, hang, lose their network or their storage.

Each fault strikes at a moment drawn from a seed that is printed. `pytest tests/cluster -m slow --repeat 3` tries each three times
and prints the table of benchmarks/FAULTS.md.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cluster.hosts import Host
from tests.cluster.ray_hosts import RayHosts
from tests.faults.fault import Fault, Table
from tests.running import POLL, STOP_TIMEOUT, STUDY_TIMEOUT, Command, count_epochs, epochs_by_host, journal

pytestmark = pytest.mark.slow


class Cluster:
    """A head and two workers, and the study that they train."""

    def __init__(self, hosts: RayHosts) -> None:
        self.hosts = hosts
        self.head, self.one, self.two = (hosts.add(name) for name in ("head", "one", "two"))
        hosts.start_head(self.head)
        for worker in (self.one, self.two):
            hosts.start_worker(worker, self.head)
        self.driver = self.head

    def start(self, *words: str) -> Command:
        """A study on the host that drives."""
        return self.hosts.study(self.driver, "--profile", "cpu", *words)


@pytest.fixture
def cluster(shared: Path, hosts: RayHosts) -> Cluster:
    return Cluster(hosts)  # the hosts are made when the shared folder is there


@pytest.fixture
def fault(request: pytest.FixtureRequest, attempt: int, table: Table, cluster: Cluster, shared: Path) -> Fault:
    name = request.node.originalname.removeprefix("test_").replace("_", " ")
    return Fault(name, attempt, table, cluster.start, shared)


def test_a_worker_host_dies(fault: Fault, cluster: Cluster) -> None:
    command = fault.begin()
    cluster.one.kill()
    fault.remember()
    assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    lost = [r for r in journal(fault.folder) if r["event"] == "leg_ended" and r["outcome"] == "lost"]
    assert not any(r["node_alive"] for r in lost), "a host's death is nobody's memory"
    fault.check()


def test_a_host_comes_and_all_others_go(fault: Fault, cluster: Cluster) -> None:
    """The new one gets trials: none but it can bring the study to its end."""
    new = cluster.hosts.add("new")
    command = fault.begin()
    for worker in (cluster.one, cluster.two):
        worker.freeze()  # or the study might end before the new one has joined
    fault.remember()
    cluster.hosts.start_worker(new, cluster.head)
    cluster.one.kill()
    cluster.two.kill()
    assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    assert "new" in epochs_by_host(fault.folder)
    fault.check()


def test_a_host_loses_its_network_for_a_while(fault: Fault, cluster: Cluster) -> None:
    """Shorter than Ray's patience (52 to 65 s, as measured) or longer: no trial is counted twice."""
    command = fault.begin()
    cluster.one.cut()
    fault.remember()
    end = time.monotonic() + fault.rng.uniform(*fault.rng.choice([(5, 40), (75, 90)]))
    while time.monotonic() < end and command.process.poll() is None:
        command.tree()
        time.sleep(POLL)
    cluster.one.mend()
    assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    fault.check()


def test_a_host_hangs_for_a_while(fault: Fault, cluster: Cluster) -> None:
    """A slow node: all of it stands still for less than Ray's patience, the others go on."""
    command = fault.begin(trials=80)  # the other still has work when it stands
    command.until(lambda: epochs_by_host(fault.folder).keys() == {"one", "two"}, "not every host trained")
    frozen = cluster.one.freeze()
    fault.remember()
    before = epochs_by_host(fault.folder)["two"]
    time.sleep(fault.rng.uniform(5, 20))
    command.until(lambda: epochs_by_host(fault.folder)["two"] > before, "all waited for the one that stands still")
    cluster.one.thaw(frozen)
    assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    fault.check(most_repeated=0)


def test_the_head_dies(fault: Fault, cluster: Cluster) -> None:
    """Driver, GCS and all are gone; another head takes the workers, and the study from the storage."""
    fault.begin()
    cluster.head.kill()
    fault.remember()
    cluster.driver = cluster.hosts.add("next")
    cluster.hosts.start_head(cluster.driver)
    for worker in (cluster.one, cluster.two):
        worker.run("ray", "stop", "--force", **cluster.hosts.environment(worker))
        cluster.hosts.start_worker(worker, cluster.driver)
    fault.resume()
    assert {r["generation"] for r in journal(fault.folder)} == {1, 2}
    fault.check()


def test_an_old_driver_comes_back_to_life(fault: Fault, cluster: Cluster) -> None:
    """It finds that another has taken the study over, stops, and what it wrote meanwhile does not count."""
    old = fault.begin()
    frozen = cluster.head.freeze()
    fault.remember()
    cluster.driver = cluster.hosts.add("next")
    cluster.hosts.start_head(cluster.driver)
    cluster.two.run("ray", "stop", "--force", **cluster.hosts.environment(cluster.two))
    cluster.hosts.start_worker(cluster.two, cluster.driver)
    words = ("--space", "smoke", "--runs-dir", str(fault.runs), "--resume", "--name", "f")
    new = cluster.start(*words)
    new.until(lambda: any(r["generation"] == 2 for r in journal(fault.folder)), "the new driver took nothing over")
    cluster.head.thaw(frozen)
    old.process.send_signal(signal.SIGCONT)  # nsenter stops with what it has started
    assert old.wait(STOP_TIMEOUT) == 2, old.text()[-3000:]
    assert "another driver has taken this study over (host next, process" in old.text()
    assert "Traceback" not in old.text()
    assert new.wait(STUDY_TIMEOUT) == 0, new.text()[-3000:]
    fault.check()


def test_a_second_driver_is_refused_while_the_first_lives(fault: Fault, cluster: Cluster) -> None:
    other = cluster.hosts.add("next")  # first of all: the study is not to end while this host starts
    cluster.hosts.start_head(other)
    first = fault.begin(trials=80)
    cluster.driver = other
    second = cluster.start("--space", "smoke", "--runs-dir", str(fault.runs), "--resume", "--name", "f")
    assert second.wait(STUDY_TIMEOUT) == 2, second.text()[-3000:]
    assert "another search is running in" in second.text()
    fault.remember()
    assert first.wait(STUDY_TIMEOUT) == 0, first.text()[-3000:]
    fault.check(most_repeated=0)


def check_paused(command: Command, said: str) -> None:
    assert command.wait(STUDY_TIMEOUT) == 4, command.text()[-3000:]
    assert "Traceback" not in command.text()
    assert said in command.text()


def test_the_shared_storage_turns_read_only(fault: Fault, cluster: Cluster) -> None:
    """For the workers, as where a file server's exports change."""
    command = fault.begin()
    for worker in (cluster.one, cluster.two):
        remount(worker, "ro", fault.runs)
    check_paused(command, "is read-only: the study is paused. Make it writable, then: python -m search.run")
    fault.remember()
    for worker in (cluster.one, cluster.two):
        remount(worker, "rw", fault.runs)
    fault.resume()
    fault.check()


def remount(host: Host, how: str, place: Path) -> None:
    """Tried until nobody on the host is writing just then."""
    end = time.monotonic() + STOP_TIMEOUT
    while time.monotonic() < end:
        with suppress(subprocess.CalledProcessError):
            host.run("mount", "-o", f"remount,bind,{how}", str(place))
            return
        time.sleep(POLL / 10)
    raise AssertionError(f"{host.name} is always writing")


def test_the_shared_storage_is_full(fault: Fault) -> None:
    command = fault.begin()
    with filled(fault.runs):
        check_paused(command, "is full: the study is paused. Make room, then: python -m search.run")
    fault.remember()
    fault.resume()
    fault.check()


@contextmanager
def filled(place: Path) -> Iterator[None]:
    """Not one byte is free. By a file of somebody else's: a file system is not shrunk below what is written to it meanwhile."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):  # that no space is left
        while True:
            file.write(bytes(1 << 12))
    yield
    filler.unlink()


def test_a_storage_that_a_host_does_not_see(cluster: Cluster, shared: Path, attempt: int) -> None:
    """It is found out before the first trial, with host and path."""
    cluster.two.run("umount", "-l", str(shared))
    command = cluster.start("--space", "smoke", "--runs-dir", str(shared), "--name", "f")
    assert command.wait(STUDY_TIMEOUT) == 2, command.text()[-3000:]
    assert f"error: node two ({cluster.two.address}): does not see {shared}/f/study.json" in command.text()
    assert "Traceback" not in command.text()
    assert count_epochs(shared / "f") == 0
