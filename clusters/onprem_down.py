"""Ends a cluster of one's own machines and looks whether anything of Ray is left on any of them.

    python clusters/onprem_down.py clusters/onprem.yaml

`ray down` ends the head's processes alone: workers of the `local` provider go on. This runs `ray down`, then `ray stop` on every
host by SSH, then counts; it exits 1 where something is left or a host does not answer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

LIST = "pgrep -fa 'raylet|gcs_server' | grep -v pgrep"
# What has been killed may be listed for a moment more: it is given ten seconds.
STOP = (
    "PATH=$HOME/detector-search-env/bin:$PATH ray stop --force > /dev/null 2>&1; "
    f"for second in $(seq 10); do {LIST} > /dev/null || break; sleep 1; done; {LIST}"
)
NOTHING = 1  # grep's exit status where no line matched


def on_host(file: dict[str, Any], address: str, command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command on a host as the cluster file's user."""
    auth = file["auth"]
    options = [
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
        "-o",
        "ConnectTimeout=10",
    ]
    words = [
        "ssh",
        *options,
        "-i",
        os.path.expanduser(auth["ssh_private_key"]),
        f"{auth['ssh_user']}@{address}",
        command,
    ]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def left(file: dict[str, Any]) -> list[str]:
    """Stops Ray on every host; what is left afterwards, a line each."""
    found = []
    for address in (file["provider"]["head_ip"], *file["provider"]["worker_ips"]):
        done = on_host(file, address, STOP)
        if done.returncode not in (0, NOTHING):
            found.append(f"{address}: does not answer: {done.stderr.strip()}")
        found += [f"{address}: process {line}" for line in done.stdout.splitlines()]
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the cluster file that was given to ray up")
    options = parser.parse_args(arguments)
    file = yaml.safe_load(options.file.read_text())
    environment = {**os.environ, "RAY_UP_enable_autoscaler_v2": "0"}
    subprocess.run(["ray", "down", "-y", str(options.file)], env=environment, check=False, stdout=sys.stderr)
    there = left(file)
    print("\n".join(there) if there else "nothing of Ray is left on any host")
    return int(bool(there))


if __name__ == "__main__":
    sys.exit(main())
