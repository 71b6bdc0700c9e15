"""Hosts of a network of their own on one machine: network namespaces with private processes, mounts, home and sshd.

Needs root, iproute2, openssh-server and util-linux; `why_not()` says what is missing. Names and addresses are drawn,
so that two runs on one machine do not meet.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.running import ROOT, STOP_TIMEOUT

SSHD = "/usr/sbin/sshd"
ADDRESSES = "10.{net}.0.{host}"

# Run inside a host's namespaces as its first process: its own /proc, name, shared memory, home (by /etc/passwd) and folder
# of Ray's sessions, then sshd in the foreground. Everything else is this machine's: the Python environment, the project.
BOOT = """
mount --make-rprivate /
mount -t proc proc /proc
mkdir -p /tmp/ray
mount --bind {place}/ray /tmp/ray
mount --bind {place}/passwd /etc/passwd
mount --bind {place}/shm /dev/shm
mkdir -p /run/sshd
hostname {name}
ip link set lo up
exec {sshd} -D -e -f {place}/sshd_config
"""


def why_not() -> str:
    """What such hosts lack on this machine; "" where they can be made."""
    lacking = [tool for tool in ("ip", "unshare", "nsenter", "ssh", "rsync", SSHD) if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} must be installed (Debian: iproute2, util-linux, openssh-server, rsync)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"], capture_output=True, check=False
    )
    return "" if probe.returncode == 0 else f"namespaces cannot be made here: {probe.stderr.decode().strip()}"


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@dataclass
class Host:
    """One host: its name, its address and where its private files lie on this machine."""

    name: str
    address: str
    place: Path
    process: subprocess.Popen[bytes]
    device: str  # its end of the wire, on this machine's side

    @property
    def first(self) -> psutil.Process:
        """The host's first process: with it all others go."""
        return psutil.Process(self.process.pid).children()[0]

    def freeze(self) -> list[psutil.Process]:
        """Everything that runs on the host but its first process stands still, whoever started it; `thaw` lets it go on."""
        first = self.first  # found by a look through all processes
        own = _namespace(first)
        frozen = [p for p in psutil.process_iter() if p != first and _namespace(p) == own]
        _signal(frozen, signal.SIGSTOP)
        return frozen

    @staticmethod
    def thaw(frozen: list[psutil.Process]) -> None:
        _signal(frozen, signal.SIGCONT)

    def command(self, *words: str) -> list[str]:
        """Words that run a command inside, as its root."""
        return ["nsenter", "--target", str(self.first.pid), "--net", "--mount", "--pid", "--uts", *words]

    def run(self, *words: str, **environment: str) -> str:
        """What a command inside prints."""
        done = subprocess.run(
            self.command("env", *(f"{k}={v}" for k, v in environment.items()), *words),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def kill(self) -> None:
        """The plug is pulled: every process dies at once, and nothing says good-bye."""
        self.cut()
        self.first.kill()
        self.process.wait(30)

    def cut(self) -> None:
        """Takes the network away; connections hang, as with a pulled cable."""
        _run("ip", "link", "set", self.device, "down")

    def mend(self) -> None:
        """Puts the network back."""
        _run("ip", "link", "set", self.device, "up")


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # one that has ended meanwhile
            process.send_signal(number)


def _namespace(process: psutil.Process) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{process.pid}/ns/pid").readlink())
    return ""


@dataclass
class Network:
    """A bridge on this machine and the hosts behind it; this machine is its first address."""

    place: Path
    number: int = 0  # in names and addresses; the first that nobody on this machine has
    hosts: list[Host] = field(default_factory=list)

    @property
    def bridge(self) -> str:
        return f"dsb{self.number}"

    def address(self, host: int) -> str:
        return ADDRESSES.format(net=self.number, host=host)

    def begin(self) -> None:
        for self.number in random.sample(range(20, 250), 50):
            with suppress(subprocess.CalledProcessError):
                _run("ip", "link", "add", self.bridge, "type", "bridge")
                break
        else:
            raise AssertionError("fifty networks of these tests are on this machine already")
        _run("ip", "addr", "add", f"{self.address(1)}/24", "dev", self.bridge)
        _run("ip", "link", "set", self.bridge, "up")
        self.place.mkdir(parents=True, exist_ok=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))

    @property
    def key(self) -> Path:
        """The private key that every host lets in."""
        return self.place / "key"

    def add(self, name: str) -> Host:
        """Starts a host and waits for its sshd."""
        number = len(self.hosts) + 2
        place = self.place / f"{name}-{number}"
        for folder in ("ray", "home/.ssh", "shm"):
            (place / folder).mkdir(parents=True)
        users = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        own = [[*u[:5], f"{place}/home", "/bin/bash"] if u[0] == "root" else u for u in users]
        (place / "passwd").write_text("".join(":".join(u) + "\n" for u in own))
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / "host_key"))
        (place / "home/.ssh/authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        (place / "home/.ssh").chmod(0o700)
        (place / "home").chmod(0o700)
        (place / "sshd_config").write_text(
            f"ListenAddress {self.address(number)}\nHostKey {place}/host_key\nPermitRootLogin prohibit-password\n"
            f"PasswordAuthentication no\nPidFile none\nStrictModes no\nUsePAM no\nSubsystem sftp internal-sftp\n"
        )
        # The environment of these tests, as one that is installed already.
        (place / "home" / "detector-search-env").symlink_to(sys.prefix)
        shutil.copy(ROOT / "constraints.txt", place / "home" / ".detector-search-versions")
        outside, inside = f"ds{self.number}o{number}", f"ds{self.number}i{number}"
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
        boot = BOOT.format(place=place, name=name, sshd=SSHD)
        wait_for_wire = f"while ! ip link show {inside} > /dev/null 2>&1; do sleep 0.05; done; ip addr add {self.address(number)}/24 dev {inside}; ip link set {inside} up\n"
        # A session of its own, so that a signal to this process's group does not reach it.
        process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-ec", wait_for_wire + boot],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(place / "sshd.txt").open("wb"), start_new_session=True,
        )  # fmt: skip
        host = Host(name, self.address(number), place, process, outside)
        self.hosts.append(host)
        _wait(lambda: bool(psutil.Process(process.pid).children()), f"{name} has no first process")
        _run("ip", "link", "set", inside, "netns", str(host.first.pid))
        _run("ip", "link", "set", outside, "master", self.bridge, "up")
        _wait(lambda: _answers(host, self.key), f"{name}'s sshd does not answer: {(place / 'sshd.txt').read_text()}")
        return host

    def end(self) -> None:
        """Takes everything away; hosts that are dead already stay so."""
        for host in self.hosts:
            if host.process.poll() is None:
                host.process.kill()
                host.process.wait(30)
            subprocess.run(["ip", "link", "del", host.device], check=False, capture_output=True)
        if self.number:
            subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)


def _wait(true: Callable[[], bool], problem: str) -> None:
    until = time.monotonic() + STOP_TIMEOUT
    while not true():
        assert time.monotonic() < until, problem
        time.sleep(0.1)


def ssh_words(key: Path, address: str, user: str = "root") -> list[str]:
    """Words that run what follows on a host."""
    options = [
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
        "-o",
        "ConnectTimeout=30",
    ]
    return ["ssh", *options, "-i", str(key), f"{user}@{address}"]


def _answers(host: Host, key: Path) -> bool:
    return subprocess.run([*ssh_words(key, host.address), "true"], capture_output=True, check=False).returncode == 0
