"""Does a study pay? The default study against plain training and random search, for the same worker-seconds.

For each COCO folder (default: the simulated street; name others): (a) the default study with all that follows it; (b) the
base alone, trained for as many busy worker-seconds as (a) took, its schedule spanning them (`--audit-base`); (c) random search
over the same space without pruning, for as many worker-seconds. A folder without test.json has a fixed third of its validation
images held out (by a hash of their names): no side sees them before its end, and all scores are of them. Each result is a
line of benchmarks/pays.jsonl, so that a run that was stopped goes on: `python -m benchmarks.pays [DATA ..] [--seeds 0 1 2]`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.state import StudyState, read_study
from results.tables import delivered, held_out_scores, winner, worker_seconds

RESULTS = Path(__file__).with_name("pays.jsonl")
STREET = "street"
HELD_OUT = 3  # one in so many validation images, where a folder has no test split
SIDES = {"a": "the default study", "b": "the base alone", "c": "random search, no pruning"}


def with_test_split(data: Path, scratch: Path) -> list[str]:
    """The options that name a dataset, a third of its validation images held out where it has no test split."""
    if (data / "test.json").is_file():
        return ["--data", str(data)]
    out = scratch / f"{data.name}-split"
    out.mkdir(parents=True, exist_ok=True)
    whole = json.loads((data / "val.json").read_text())
    held_out = {image["id"] for image in whole["images"] if _digest(image["file_name"]) % HELD_OUT == 0}
    for name, kept in (("test", held_out), ("val", {image["id"] for image in whole["images"]} - held_out)):
        part = {
            **whole,
            "images": [image for image in whole["images"] if image["id"] in kept],
            "annotations": [row for row in whole["annotations"] if row["image_id"] in kept],
        }
        (out / f"{name}.json").write_text(json.dumps(part))
    for name in ("train.json", "images"):
        if not (out / name).exists():
            (out / name).symlink_to(data.resolve() / name)
    return ["--data", str(out)]


def _digest(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16)


def run_study(name: str, runs: Path, options: Sequence[str]) -> StudyState:
    """A study by the real command, gone on with where it was stopped."""
    more = ["--resume"] if (runs / name / "study.json").is_file() else []
    command = [sys.executable, "-m", "search.run", "--space", "retinanet", "--runs-dir", str(runs), "--name", name]
    subprocess.run([*command, *options, *more], check=True, stdout=sys.stderr)
    return read_study(runs / name)[1]


def measure(data: str, seed: int, runs: Path) -> list[dict[str, Any]]:
    """The rows of one dataset and study seed: held-out scores, validation scores, minutes, by side."""
    source = [] if data == STREET else with_test_split(Path(data), runs)
    label = data if data == STREET else Path(data).name
    shared = [*source, "--seed", str(seed)]
    state = run_study(f"{label}-{seed}-a", runs, [*shared, "--audit-base"])
    plain, best = state.with_role("plain")[0], delivered(state)
    seconds = {side: busy(state, side == "b") for side in ("a", "b")}
    base = state.with_role("search")[0]
    each = sum(worker_seconds(r) for r in base.epochs.values()) / len(base.epochs)
    trials = max(2, round(seconds["a"] / (each * base.levels[-1])))
    options = ["--sampler", "random", "--scheduler", "none", "--no-polish", "--trials", str(trials)]
    other = run_study(f"{label}-{seed}-c", runs, [*shared, *options])
    return [
        row(label, seed, "a", state, best, seconds["a"]),
        row(label, seed, "b", state, plain, seconds["b"]),
        row(label, seed, "c", other, winner(other), busy(other, False)),
    ]


def busy(state: StudyState, plain: bool) -> float:
    """Worker-seconds of a study without its plain training, or of that alone."""
    trials = (t for t in state.trials.values() if (t.role == "plain") is plain)
    return sum(worker_seconds(r) for trial in trials for r in trial.epochs.values() if not r.get("taken_over"))


def row(data: str, seed: int, side: str, state: StudyState, trial: Any, seconds: float) -> dict[str, Any]:
    """One side's result."""
    assert trial is not None, (data, seed, side)
    scores = held_out_scores(state)[trial.id]
    return {
        "data": data, "seed": seed, "side": side, "test_mAP": round(scores["mAP"], 4), "test_AP50": round(scores["AP50"], 4),
        "val_mAP": round(trial.ranked_score("mAP"), 4), "epochs": trial.last_epoch, "trials": len(state.with_role("search")),
        "worker_minutes": round(seconds / 60, 2),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over study seeds, a row a dataset and side, as Markdown."""
    lines = [
        "| data | side | seeds | test mAP, median | each | test AP50 | val mAP | worker-minutes |",
        "|---|---|---:|---:|---|---:|---:|---:|",
    ]
    for data in dict.fromkeys(r["data"] for r in rows):
        for side, words in SIDES.items():
            found = sorted((r for r in rows if r["data"] == data and r["side"] == side), key=lambda r: r["seed"])
            if found:
                middle = {
                    key: statistics.median(r[key] for r in found)
                    for key in ("test_mAP", "test_AP50", "val_mAP", "worker_minutes")
                }
                each = " / ".join(f"{r['test_mAP']:.3f}" for r in found)
                lines.append(
                    f"| {data} | ({side}) {words} | {len(found)} | {middle['test_mAP']:.3f} | {each} | {middle['test_AP50']:.3f} | "
                    f"{middle['val_mAP']:.3f} | {middle['worker_minutes']:.1f} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pays", description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", default=[STREET], help=f"COCO folders, or {STREET} (default: {STREET})")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument(
        "--runs-dir", type=Path, default=Path("runs/pays"), help="where studies lie (default: runs/pays)"
    )
    options = parser.parse_args()
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    for seed in options.seeds:
        for data in options.data:
            label = data if data == STREET else Path(data).name
            if not any((r["data"], r["seed"]) == (label, seed) for r in rows):
                found = measure(data, seed, options.runs_dir)
                rows += found
                with RESULTS.open("a") as file:
                    file.writelines(json.dumps(r) + "\n" for r in found)
    print(table(rows))


if __name__ == "__main__":
    main()
