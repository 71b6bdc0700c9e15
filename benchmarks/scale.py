"""How the orchestrator bears many workers, many trials and many nodes.

`python -m benchmarks.scale [--parts replay trials nodes]` prints three tables:
- replay: thousands of simulated trials on 8 and on 1 000 workers: decisions per second and the driver's memory;
- trials: 300 short trials on real Ray (a trainer that sleeps): seconds that a result costs beyond its training, among the first
  and the last hundred results, and their ratio;
- nodes: the same work a node on 1, 2, 4 and 8 nodes (raylets of this machine, a core each): how much of the nodes' time is training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.sleeper import SECONDS

TRAINER = ["--trainer", "benchmarks.sleeper:Sleeper", "--space", "smoke", "--profile", "cpu"]
WINDOW = 100


def replay() -> None:
    """Many workers, in simulated time; each row in a process of its own, so that memory is its own."""
    print("| sampler | workers | trials | decisions | a second | peak GiB |\n|---|---:|---:|---:|---:|---:|")
    for sampler, trials in (("random", 10_000), ("tpe", 3_000)):
        for workers in (8, 1000):
            code = f"from benchmarks.scale import replay_row; replay_row({sampler!r}, {workers}, {trials})"
            print(
                subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip(),
                flush=True,
            )


def replay_row(sampler: str, workers: int, trials: int) -> None:
    """One study on synthetic curves, its decisions timed."""
    from search.curves import SyntheticCurves
    from search.simulation import simulate_study

    outcome = simulate_study(
        SyntheticCurves(),
        scheduler="asha",
        sampler=sampler,
        workers=workers,
        seed=0,
        trials=trials,
        clock=time.perf_counter,
    )
    timings = outcome.decision_seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"| {sampler} | {workers} | {outcome.trials} | {len(timings)} | {len(timings) / sum(timings):.0f} | {peak:.2f} |"
    )


def study(runs: Path, name: str, *words: str, **environment: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The epochs that a study journaled, and its summary."""
    command = [sys.executable, "-m", "search.run", *TRAINER, "--runs-dir", str(runs), "--name", name, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    lines = (runs / name / "journal.jsonl").read_text().splitlines()
    epochs = [record for record in map(json.loads, lines) if record["event"] == "epoch"]
    return epochs, json.loads((runs / name / "results" / "summary.json").read_text())


def trials(runs: Path, repeats: int) -> None:
    """Real Ray on this machine's cores."""
    slots, seconds = 2, 0.1
    print(f"\n300 trials, {slots} at a time, an epoch sleeps {seconds} s, asha (rungs 1, 3, 9)")
    print(
        "| sampler | results | ms a result beyond training: first 100 | last 100 | ratio (median of runs) |\n|---|---:|---:|---:|---|"
    )
    for sampler in ("random", "tpe"):
        rows = []
        for number in range(repeats):
            words = ("--trials", "300", "--concurrent", str(slots), "--sampler", sampler, "--keep", "best")
            epochs, _ = study(runs, f"trials-{sampler}-{number}", *words, **{SECONDS: str(seconds)})
            rows.append(
                (
                    len(epochs),
                    *(overhead(window, slots) for window in (epochs[:WINDOW], epochs[-WINDOW - slots : -slots])),
                )
            )
        ratios = [last / first for _, first, last in rows]
        middle = rows[ratios.index(statistics.median_low(ratios))]
        told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"| {sampler} | {middle[0]} | {1e3 * middle[1]:.0f} | {1e3 * middle[2]:.0f} | {statistics.median(ratios):.2f} ({told}) |",
            flush=True,
        )


def overhead(epochs: list[dict[str, Any]], slots: int) -> float:
    """Seconds of a slot that a result took beyond its training."""
    wall = float(epochs[-1]["time"] - epochs[0]["time"])
    return wall * slots / (len(epochs) - 1) - statistics.fmean(epoch["seconds"] for epoch in epochs)


class FakeNodes:
    """A cluster of raylets on this machine, in a process of its own."""

    def __init__(self, count: int, seconds: float) -> None:
        # The trainer sleeps in workers, which know what their raylet knows and not what the driver does.
        self.environment = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "disabled",
            SECONDS: str(seconds),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fake_nodes"], env={**os.environ, **self.environment}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.environment["RAY_ADDRESS"] = self._line()
        for _ in range(count):
            assert self.process.stdin is not None
            self.process.stdin.write("add 1\n")
            self.process.stdin.flush()
            self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return next(line.strip() for line in self.process.stdout if not line.startswith(("[", " ", "20")))

    def end(self) -> None:
        """Stops all of it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(120)


def nodes(runs: Path) -> None:
    """The same work a node, on more and more nodes."""
    per_node, epochs, seconds = 10, 3, 3.0
    print(f"\n{per_node} trials a node, {epochs} epochs of {seconds:g} s each, scheduler none")
    print(
        "| nodes | trials | minutes from the first epoch's start to the last one's end | of one node's time | training's share of the nodes' time |\n|---:|---:|---:|---:|---:|"
    )
    alone = 0.0
    for count in (1, 2, 4, 8):
        cluster = FakeNodes(count, seconds)
        try:
            words = (
                "--trials",
                str(per_node * count),
                "--scheduler",
                "none",
                "--epochs",
                str(epochs),
                "--sampler",
                "random",
                "--keep",
                "best",
            )
            found, summary = study(runs, f"nodes-{count}", *words, **cluster.environment)
        finally:
            cluster.end()
        span = found[-1]["time"] - found[0]["time"] + found[0]["seconds"]
        alone = alone or span
        print(
            f"| {count} | {per_node * count} | {span / 60:.2f} | {alone / span:.1%} | {summary['train_share']:.1%} |",
            flush=True,
        )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=("replay", "trials", "nodes"), default=["replay", "trials", "nodes"]
    )
    parser.add_argument("--repeats", type=int, default=3, help="times that the short trials are run (default: 3)")
    options = parser.parse_args()
    print(f"machine: {os.cpu_count()} cores, {platform.processor() or platform.machine()}\n")
    with tempfile.TemporaryDirectory(prefix="scale-") as place:
        if "replay" in options.parts:
            replay()
        if "trials" in options.parts:
            trials(Path(place), options.repeats)
        if "nodes" in options.parts:
            nodes(Path(place))


if __name__ == "__main__":
    main()
