"""Networks of hosts, made and taken away."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Network, why_not
from tests.cluster.ray_hosts import RayHosts


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """An empty network; skips where none can be made."""
    lacking = why_not()
    if lacking:
        pytest.skip(f"hosts in network namespaces: {lacking}")
    made = Network(tmp_path / "net")
    try:
        made.begin()
        yield made
    finally:
        made.end()


@pytest.fixture
def hosts(network: Network, cache: Path) -> RayHosts:
    """The network, ready for Ray."""
    return RayHosts(network, cache)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A small file system that every host made after it mounts at the same path, as one of a file server."""
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)
