"""Ray on hosts of a network of their own, started by the commands of clusters/onprem.yaml, and studies on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import Host, Network
from tests.running import ROOT, Command

CLUSTER_FILE = ROOT / "clusters" / "onprem.yaml"
TOKEN = "a-token-of-these-tests-and-of-nothing-else-0123456789"


class RayHosts:
    """A network of hosts, one of them the head; each runs one trial at a time, the head none."""

    def __init__(self, network: Network, cache: Path) -> None:
        self.network, self.cache = network, cache
        self.file: dict[str, Any] = yaml.safe_load(CLUSTER_FILE.read_text())
        self.outs = 0

    def environment(self, host: Host) -> dict[str, str]:
        """What a login on a host has, and the caches that its processes share with this machine."""
        kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "LANG") if name in os.environ}
        return {
            **kept, "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(host.place / "home"),
            "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "XDG_CACHE_HOME": str(self.cache), "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "SSH_CONNECTION": f"{self.network.address(1)} 50000 {host.address} 22",
        }  # fmt: skip

    def add(self, name: str) -> Host:
        """A host that knows the cluster's secret; Ray is not started on it."""
        host = self.network.add(name)
        folder = host.place / "home" / ".ray"
        folder.mkdir()
        (folder / "auth_token").write_text(TOKEN)
        (folder / "auth_token").chmod(0o600)
        return host

    def start_head(self, host: Host) -> None:
        """Ray's head, by the file's own words less what concerns `ray up`."""
        command = self.file["head_start_ray_commands"][-1].replace(
            "--autoscaling-config=~/ray_bootstrap_config.yaml", "--num-cpus=0"
        )
        host.run("bash", "-c", command, **self.environment(host))

    def start_worker(self, host: Host, head: Host, more: str = "") -> None:
        """A worker's raylet, by the file's own words and some more."""
        command = f"{self.file['worker_start_ray_commands'][-1]} --num-cpus=1 {more}"
        host.run("bash", "-c", command, **self.environment(host), RAY_HEAD_IP=head.address)

    def study(self, host: Host, *words: str, **environment: str) -> Command:
        """`python -m search.run ...` on a host, which joins the cluster that the host is the head of."""
        self.outs += 1
        out = self.network.place / f"out-{self.outs}.txt"
        told = {**self.environment(host), "RAY_ADDRESS": f"{host.address}:6379", **environment}
        with out.open("w") as file:
            process = subprocess.Popen(
                host.command("env", *(f"{k}={v}" for k, v in told.items()), sys.executable, "-m", "search.run", *words),
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip
        return Command(process, out)
