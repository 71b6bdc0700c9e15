"""Joining a cluster that is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.running import STUDY_TIMEOUT, Command


def test_a_cluster_that_is_not_there_is_one_message_and_exit_2(start: Callable[..., Command], tmp_path: Path) -> None:
    command = start(
        "--space", "smoke", "--runs-dir", str(tmp_path), RAY_ADDRESS="127.0.0.1:1", RAY_AUTH_MODE="disabled"
    )
    assert command.wait(STUDY_TIMEOUT) == 2, command.text()
    assert "RAY_ADDRESS=127.0.0.1:1: must be a running Ray cluster" in command.text()
    assert "Traceback" not in command.text()
