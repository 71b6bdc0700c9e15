"""clusters/onprem.yaml as a user gives it to the real `ray up`, on hosts with sshd: a study, who listens, who is let in, the way down."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.hosts import Host, Network
from tests.cluster.ray_hosts import CLUSTER_FILE
from tests.running import ROOT, STOP_TIMEOUT, STUDY_TIMEOUT, Command, check_finished, epochs_by_host

pytestmark = pytest.mark.slow
ENVIRONMENT = Path(sys.executable).parent


class Laptop:
    """Where the user sits: a home with a key and a token, and the project's folder."""

    def __init__(self, network: Network, place: Path) -> None:
        self.network, self.home, self.file = network, place / "laptop", place / "onprem.yaml"
        self.commands: list[Command] = []
        (self.home / ".ray").mkdir(parents=True)

    def fill_in(self, head: Host, workers: list[Host]) -> None:
        """The lines that are marked with an arrow, and nothing else but a name that no other run on this machine has."""
        text = CLUSTER_FILE.read_text()
        marked = [line for line in text.splitlines() if "# <-" in line]
        keys = ["max_workers", "head_ip", "worker_ips", "ssh_user", "ssh_private_key"]
        assert [line.split(":")[0].strip() for line in marked] == keys
        file: dict[str, Any] = yaml.safe_load(text)
        file["cluster_name"] = f"test-{self.network.number}-{os.getpid()}"
        file["max_workers"] = len(workers)
        file["provider"] |= {"head_ip": head.address, "worker_ips": [host.address for host in workers]}
        file["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.network.key)}
        self.file.write_text(yaml.safe_dump(file, sort_keys=False, width=10_000))

    def begin(self, *words: str) -> Command:
        """A command of the user's, under way."""
        environment = {
            **os.environ,
            "HOME": str(self.home),
            "RAY_UP_enable_autoscaler_v2": "0",
            "PATH": f"{ENVIRONMENT}:{os.environ['PATH']}",
        }
        environment.pop("RAY_ADDRESS", None)
        out = self.home / f"out-{len(self.commands)}.txt"
        with out.open("w") as file:
            process = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                text=True, start_new_session=True,
            )  # fmt: skip
        self.commands.append(Command(process, out))
        return self.commands[-1]

    def run(self, *words: str) -> str:
        """What a command of the user's prints, which must succeed."""
        return printed(self.begin(*words))

    def execute(self, command: str) -> str:
        """`ray exec`, on the head."""
        return self.run("ray", "exec", str(self.file), command)


def printed(command: Command) -> str:
    """What a command has printed that must succeed."""
    assert command.wait(STUDY_TIMEOUT) == 0, f"{command.process.args!r}\n{command.text()[-3000:]}"
    return command.text()


@pytest.fixture
def laptop(network: Network, tmp_path: Path) -> Iterator[Laptop]:
    """A laptop in the network; what still runs there at the end is killed."""
    made = Laptop(network, tmp_path)
    try:
        yield made
    finally:
        for command in made.commands:
            command.kill_tree()


def listening(host: Host) -> dict[str, set[str]]:
    """The command lines of a host's processes that listen, by the address that they listen on."""
    lines = host.run("ss", "-ltnpH").splitlines()
    while not all("pid=" in line for line in lines):  # one began to listen while ss looked through the processes
        lines = host.run("ss", "-ltnpH").splitlines()
    commands = dict(line.split(maxsplit=1) for line in host.run("ps", "-ww", "-eo", "pid=,args=").splitlines())
    found: dict[str, set[str]] = {}
    for line in lines:
        owner = re.search(r"pid=([0-9]+)", line)
        assert owner is not None, line
        if owner[1] in commands:  # else it has ended in between
            found.setdefault(line.split()[3].rpartition(":")[0], set()).add(commands[owner[1]])
    return found


def listening_at_rest(host: Host) -> dict[str, set[str]]:
    """As above, once the workers of the studies before are gone, which listen for the driver."""
    until = time.monotonic() + STOP_TIMEOUT
    while any(re.search("^ray::(?!RuntimeEnv)", command) for found in listening(host).values() for command in found):
        assert time.monotonic() < until, f"workers that no study needs: {listening(host)}"
        time.sleep(1)
    return listening(host)


def try_to_join(host: Host, head: Host, **environment: str) -> str:
    """What Ray says to a process on a host that would join the cluster."""
    code = f"import ray; ray.init('{head.address}:6379', logging_level='ERROR'); print('joined', len(ray.nodes()))"
    words = host.command("env", *(f"{k}={v}" for k, v in environment.items()), sys.executable, "-c", code)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=STOP_TIMEOUT)
    return done.stdout + done.stderr


def test_from_up_to_down(network: Network, laptop: Laptop, tmp_path: Path) -> None:
    head, one, two = (network.add(name) for name in ("head", "one", "two"))
    laptop.fill_in(head, [one, two])
    laptop.run("ray", "get-auth-token", "--generate")
    laptop.run("ray", "up", "-y", str(laptop.file))
    until = time.monotonic() + STOP_TIMEOUT
    while "3 local.cluster.node" not in laptop.execute("ray status"):
        assert time.monotonic() < until, "the workers did not join"
        time.sleep(2)

    shared = tmp_path / "shared"
    told = laptop.execute(f"python -m search.run --space smoke --name a --storage {shared} --concurrent 3")
    assert "best: mAP" in told
    assert "Traceback" not in told
    check_finished(shared / "a")
    assert "ended: done; 12 trials" in laptop.execute(f"python -m search.status {shared / 'a'}")

    # Twelve trials of a second may be over before the slowest host has loaded torch: this study goes on until all train.
    run = f"python -m search.run --space smoke --name b --storage {shared} --concurrent 3 --trials 1000"
    study = laptop.begin("ray", "exec", str(laptop.file), run)
    study.until(lambda: epochs_by_host(shared / "b").keys() == {"head", "one", "two"}, "not every host trained")
    assert "stop taken up" in laptop.execute(f"python -m search.control {shared / 'b'} stop --patience 600")
    assert "best: mAP" in printed(study)

    token = (laptop.home / ".ray" / "auth_token").read_text().strip()
    for host in (head, one, two):
        # Ray listens on all of a host's addresses: these have one, of the private network. What listens is Ray and sshd alone.
        for address, commands in listening_at_rest(host).items():
            assert address in (
                "*",
                "0.0.0.0",
                host.address,
                f"[::ffff:{host.address}]",
                "[::ffff:127.0.0.1]",
                "127.0.0.1",
            ), (address, commands)
            for command in commands:
                assert re.search("^sshd|^ray::RuntimeEnv|/ray/| -m ray[.]", command), (address, command)
                assert not re.search("ray::Dashboard|dashboard/dashboard.py", command), "no dashboard"
        own = host.place / "home" / ".ray" / "auth_token"
        assert (own.read_text().strip(), own.stat().st_mode & 0o777) == (token, 0o600)
    for path in shared.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path

    home = str(tmp_path / "stranger")
    Path(home).mkdir()
    assert "joined 3" in try_to_join(one, head, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token, HOME=home)
    assert "joined" not in try_to_join(one, head, RAY_AUTH_MODE="disabled", HOME=home)
    assert "joined" not in try_to_join(one, head, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * len(token), HOME=home)

    told = laptop.run(sys.executable, str(ROOT / "clusters" / "onprem_down.py"), str(laptop.file))
    assert "nothing of Ray is left on any host" in told
    for host in (head, one, two):
        assert not any(word in host.run("ps", "-eo", "args") for word in ("raylet", "gcs_server", "ray::")), host.name
