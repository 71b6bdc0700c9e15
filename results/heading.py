"""A study in a line: what page, terminal and commands say first."""

from __future__ import annotations

from results.state import STATES
from results.tables import Row

ALWAYS_COUNTED = ("finished", "pruned", "failed")


def headline(told: Row) -> str:
    """Best and base of a summary in one line."""
    best, base = told["best"], told["base"]
    if not best:
        return "no trial has scored yet"
    names = tuple(dict.fromkeys((told["metric"], "mAP", "AP50")))

    def scores(row: Row) -> str:
        return ", ".join(f"{name} {row[name]:.3f}" for name in names)

    line = f"best: {scores(best)} (trial {best['number']}, {best['trial']}, epoch {best['epoch']})"
    if base:
        line += f"; base: {scores(base)} after {base['epochs']} epochs"
    return line


def counts(told: Row) -> str:
    """How the trials of a summary ended, in one line: those of the search, or of the ablation that it was."""
    told = told.get("ablation", told)
    ends = ", ".join(f"{told[name]} {name}" for name in STATES if told[name] or name in ALWAYS_COUNTED)
    return f"{told['trials']} trials: {ends}"
