"""Hosts whose GPUs are of two kinds (so they say: Ray believes what a node tells of itself, and trials fall back to the CPU)."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from results.table import main as table
from tests.cluster.ray_hosts import RayHosts
from tests.running import STUDY_TIMEOUT, check_finished, journal

pytestmark = pytest.mark.slow


def test_trials_go_where_the_kind_is_that_they_ask_for(
    hosts: RayHosts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, slow, fast = (hosts.add(name) for name in ("head", "slow", "fast"))
    hosts.start_head(head)
    for host in (slow, fast):
        hosts.start_worker(host, head, f"--num-gpus=1 --resources='{{\"accelerator_type:{host.name.upper()}\": 1}}'")
    words = ("--space", "smoke", "--storage", str(tmp_path / "runs"), "--name", "f")
    refused = hosts.study(head, *words, "--accelerator-type", "HUGE")
    assert refused.wait(STUDY_TIMEOUT) == 2, refused.text()
    assert "--accelerator-type HUGE: no node of the cluster has it; its GPUs are: FAST, SLOW" in refused.text()
    command = hosts.study(head, *words, "--accelerator-type", "FAST")
    assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    assert "profile  gpu" in command.text(), "auto took the cluster's GPUs for what they say"
    assert "1 trials at a time, 1 thread and 1 GPU each, on FAST" in command.text()
    check_finished(tmp_path / "runs" / "f")
    assert {r["host"] for r in journal(tmp_path / "runs" / "f") if r["event"] == "epoch"} == {"fast"}
    table([str(tmp_path / "runs" / "f"), "--table", "cost", "--as", "csv"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["device"] for row in rows} == {
        next(r["device"] for r in journal(tmp_path / "runs" / "f") if r["event"] == "epoch")
    }
