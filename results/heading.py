"""A study in a line: what page, terminal and commands say first."""

from __future__ import annotations

from typing import Any

from detector.weights import Weights
from results.state import STATES
from results.tables import Row

ALWAYS_COUNTED = ("finished", "pruned", "failed")


def amount(number: int, unit: str = "epochs") -> str:
    """So many epochs, or of what else: `1 epoch`, `4 epochs`, `20 seconds`."""
    return f"{number} {unit.removesuffix('s') if number == 1 else unit}"


def in_budget(plan: dict[str, Any], *levels: int) -> str:
    """Rungs of a study with what they count: `1 epoch`, `4, 12, 36 epochs`, `20 seconds`."""
    unit = plan.get("budget_unit", "epochs")
    return amount(levels[0], unit) if len(levels) == 1 else f"{', '.join(map(str, levels))} {unit}"


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
        line += f"; base: {scores(base)} after {amount(base['epochs'])}"
    return line


def weights_lines(plan: dict[str, Any]) -> list[str]:
    """Where the weights that a study's trials start from come from, a line each."""
    return [f"{Weights(**row).describe()}, sha256 {row['sha256'] or 'not known'}" for row in plan.get("weights", [])]


def longer_lines(told: Row) -> list[str]:
    """What the winner's and the base's longer trainings gave, and what all of it cost."""
    lines = []
    for row in told.get("polish", []):
        gain = row["score"] - row["of_score"]
        outcome = "that helped" if gain > 0 else "that did not help"
        outcome += ", and best.pt is that detector" if row["delivered"] else ", and best.pt is the winner as it was"
        lines.append(
            f"polish: the winner trained {row['epochs']} epochs for {row['of_epochs']}: {told['metric']} {row['score']:.3f} "
            f"({gain:+.3f}) on the validation images; {outcome}"
        )
    for row in told.get("plain", []):
        lines.append(
            f"plain training: the base alone for as many worker-seconds, {row['epochs']} epochs: {told['metric']} "
            f"{row['score']:.3f} on the validation images{_on_test(row)}"
        )
    cost = told.get("cost")
    if cost:
        lines.append(f"cost: {cost['epochs']} epochs, {cost['worker_minutes']:.1f} busy worker-minutes")
    return lines


def _on_test(row: Row) -> str:
    return f", {row['test']:.3f} on the held-out split" if row.get("test") is not None else ""


def counts(told: Row) -> str:
    """How the trials of a summary ended, in one line: those of the search, or of the ablation that it was."""
    told = told.get("ablation", told)
    ends = ", ".join(f"{told[name]} {name}" for name in STATES if told[name] or name in ALWAYS_COUNTED)
    return f"{told['trials']} trials: {ends}"
