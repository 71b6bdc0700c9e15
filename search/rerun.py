"""`python -m search.rerun RUN TRIAL`: trains one trial again from its record and prints what came out different.

On CPU with the threads that the plan fixed it is the same to the last digit; epochs that had more threads (a lone last leg)
and other machines differ by rounding. Nothing of the study is changed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.commands import CommandError, check_torch_pair, command
from detector.config import DetectorConfig
from results.records import JournalError
from results.state import StudyState, Trial, read_study
from search.options import StudyError

COMPARED = ("train_loss", "mAP", "AP50")


def find_trial(state: StudyState, name: str) -> Trial:
    """A trial by its id or its number.

    Raises: CommandError naming what there is.
    """
    found = next((t for t in state.trials.values() if name in (t.id, str(t.number))), None)
    if found is None:
        raise CommandError(
            f"TRIAL must be the id or number of a trial of this study, got {name!r}; see its leaderboard.csv"
        )
    if not found.epochs:
        raise CommandError(f"trial {name} has no epoch to compare with: {found.outcome or 'it never trained'}")
    return found


def rerun(folder: Path, name: str, epochs: int | None = None, device: str | None = None) -> dict[str, Any]:
    """Epoch by epoch the recorded and the new numbers, and the largest difference of each."""
    plan, state = read_study(folder)
    trial = find_trial(state, name)
    last = min(epochs or trial.last_epoch, trial.last_epoch)
    legs = [r for r in state.records if r["event"] == "leg_started" and r["trial"] == trial.id]
    micro_batch = legs[-1].get("micro_batch") if legs else None
    rows = []
    with tempfile.TemporaryDirectory(prefix="rerun-") as place:
        for result in _train(Path(place), plan, trial, last, device, micro_batch):
            recorded = trial.epochs[result["epoch"]]
            rows.append({"epoch": result["epoch"], **_compared(recorded, result)})
            print(_line(rows[-1]), file=sys.stderr)
    differences = {key: max(abs(row[key]["new"] - row[key]["recorded"]) for row in rows) for key in COMPARED}
    threads = sorted({trial.epochs[row["epoch"]].get("threads", 1) for row in rows})
    return {"trial": trial.id, "epochs": rows, "largest_difference": differences, "recorded_threads": threads}


def _train(
    place: Path, plan: dict[str, Any], trial: Trial, last: int, device: str | None, micro_batch: int | None
) -> Any:
    """The epochs of a trial, trained in a folder of their own with the threads and micro-batches of its record."""
    from search.leg import THREADS, LegRunner

    config = DetectorConfig.from_record(plan["space"]["base"]).with_values(trial.trained_fields)
    study = {
        "folder": str(place), "source": plan["source"], "skip_bad": plan["skip_bad"], "metric": plan["metric"],
        "official_eval": plan["official_eval"], "rank_on": plan.get("rank_on", "best"), "trainer": plan.get("trainer", ""),
        "threads": trial.epochs[1].get("threads", 1), "device": device, "fingerprint": plan.get("dataset", {}).get("fingerprint"),
    }  # fmt: skip
    leg = {
        "trial": trial.id, "number": 1, "config": config.to_dict(), "seed": trial.seed, "to_epoch": last, "start_from": "",
        "longer_schedule": False, "alone": False, "micro_batch": micro_batch, "probe": False,
    }  # fmt: skip
    runner = LegRunner(leg, study)
    runner.folder.mkdir(parents=True)
    for epoch in range(1, last + 1):
        (runner.folder / THREADS).write_text(str(trial.epochs[epoch].get("threads", 1)))
        report = runner.step()
        yield from (row for row in report["epochs"] if not row.get("absorbed"))
        if report["outcome"] not in ("", "reached"):
            raise CommandError(f"trial {trial.id} ended at epoch {epoch}: {report['outcome']}: {report['reason']}")


def _compared(recorded: dict[str, Any], new: dict[str, Any]) -> dict[str, dict[str, float]]:
    pairs = {"train_loss": (recorded["train_loss"], new["train_loss"])}
    pairs |= {name: (recorded["metrics"][name], new["metrics"][name]) for name in ("mAP", "AP50")}
    return {key: {"recorded": a, "new": b} for key, (a, b) in pairs.items()}


def _line(row: dict[str, Any]) -> str:
    parts = [f"{key} {row[key]['recorded']:.6f} / {row[key]['new']:.6f}" for key in COMPARED]
    return f"epoch {row['epoch']:>3}  recorded / new: {'  '.join(parts)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m search.rerun", description="Trains one trial again from its record and prints the differences."
    )
    parser.add_argument("run", type=Path, help="study folder")
    parser.add_argument("trial", help="id or number of a trial (see leaderboard.csv)")
    parser.add_argument("--epochs", type=int, help="stop after so many epochs (default: all that are recorded)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object (default: a line)")
    options = parser.parse_args(arguments)
    with command(JournalError, StudyError):
        check_torch_pair()
        if options.epochs is not None and options.epochs < 1:
            raise CommandError(f"--epochs must be at least 1, got {options.epochs}")
        told = rerun(options.run, options.trial, options.epochs, options.device)
    if options.json:
        print(json.dumps(told))
        return
    largest = told["largest_difference"]
    same = all(value == 0 for value in largest.values())
    print(
        f"trial {told['trial']}, {len(told['epochs'])} epochs: "
        + (
            "the same to the last digit"
            if same
            else ", ".join(f"{k} differs by at most {v:.3g}" for k, v in largest.items())
        )
    )


if __name__ == "__main__":
    main()
