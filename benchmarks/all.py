"""Runs every benchmark that compares two sides and writes their tables to benchmarks/RESULTS.md.

Each in a process of its own, one after the other; they want the machine for themselves, for about an hour and a half on two
cores. Names choose some: their sections are written anew, the others stay. `python -m benchmarks.all [NAME ..]`.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

CLAIMS = {
    "training_step": "Training step",
    "fine_tuning": "Fine-tuning step",
    "inference": "The report's configurations",
    "data_loading": "Data",
    "evaluation": "Evaluation",
    "turnaround": "Trial turnaround",
    "study": "A whole study",
    "second_study": "The second study on the same data",
    "any_size": "Data of any size",
}
RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = """# Ours and what a user would otherwise pick, side by side

Written by `python -m benchmarks.all`; each section by the script that it names, both sides in one run. What was tried on the way: [NOTES.md](NOTES.md). Rows that need a GPU say "not measured" where there is none; their scripts run there without ray.
"""


def sections() -> dict[str, str]:
    """What RESULTS.md holds, by the name of the script."""
    if not RESULTS.is_file():
        return {}
    parts = RESULTS.read_text().split("\n## ")[1:]
    titles = {title: name for name, title in CLAIMS.items()}
    return {titles[part.splitlines()[0]]: part for part in parts if part.splitlines()[0] in titles}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(CLAIMS)} (default: all)")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in CLAIMS]
    if unknown:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(CLAIMS)}")
    failed = []
    for name in options.names or CLAIMS:
        print(f"== {name}", file=sys.stderr)
        ran = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True)
        if ran.returncode:
            failed.append(name)
            continue
        told = {
            **sections(),
            name: f"{CLAIMS[name]}\n{ran.stdout.strip()}\n\n`python -m benchmarks.{name}`, {datetime.date.today()}\n",
        }
        RESULTS.write_text(HEAD + "".join(f"\n## {told[key].rstrip()}\n" for key in CLAIMS if key in told))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; their sections are as they were")


if __name__ == "__main__":
    main()
