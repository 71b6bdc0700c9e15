"""Tables of what varied: what each field makes of the score over the space, and the way from the base to the best."""

from __future__ import annotations

import math

from results.evidence import Evidence
from results.heading import in_budget
from results.importance import Effect
from results.tables import Row, show
from results.view import Tell, View, interval, number


def field_views(evidence: Evidence) -> list[View]:
    """The tables that a search has enough trials for."""
    return [view for view in (importance_view(evidence), path_view(evidence)) if view.rows]


def importance_view(evidence: Evidence) -> View:
    """A row a field, the largest share first."""
    importance = evidence.importance
    rows: list[Row] = [_row(effect) for effect in importance.effects]
    columns: dict[str, Tell] = {
        "field": lambda r: r["field"],
        "share": lambda r: _percent(r["share"]),
        "95 % over trials": lambda r: f"{_percent(r['low'])} .. {_percent(r['high'])}" if r["low"] == r["low"] else "-",
        "with interactions": lambda r: _percent(r["total"]),
        "by chance": lambda r: f"{r['chance']:.1%}",
        "better": lambda r: r["direction"],
        "n": lambda r: str(r["n"]),
    }
    for epochs in evidence.state.levels[1:]:
        reached = next((row[f"n_at_{epochs}"] for row in rows if row.get(f"n_at_{epochs}")), 0)
        if reached:
            columns[f"share at {in_budget(evidence.plan, epochs)} (n={reached})"] = _percent_of(f"share_at_{epochs}")
    return View("importance", "what mattered", rows, columns, _importance_caption(evidence), frozenset(), frozenset({"field", "better"}))  # fmt: skip


def rung_told(evidence: Evidence, rung: int) -> str:
    """A rung with its unit."""
    return in_budget(evidence.plan, evidence.state.levels[rung])


def _row(effect: Effect) -> Row:
    share = effect.share
    row: Row = {"field": effect.field, "share": share.main, "low": share.low, "high": share.high, "total": share.total}
    row |= {"chance": effect.chance, "direction": effect.direction, "n": effect.n}
    for epochs, (n, above) in effect.above.items():
        row |= {f"n_at_{epochs}": n, f"share_at_{epochs}": above}
    return row


def _percent(share: float) -> str:
    return "-" if share is None or math.isnan(share) else f"{share:.0%}"


def _percent_of(name: str) -> Tell:
    return lambda row: _percent(row.get(name, math.nan))


def _importance_caption(evidence: Evidence) -> str:
    explained, state = evidence.importance.explained, evidence.state
    sure = (
        f"the surrogate explains {explained:.0%} of the spread between trials that it has not seen"
        if explained > 0
        else "the surrogate explains nothing of trials that it has not seen: take no share for real"
    )
    unconstrained = " (its constraints left out)" if evidence.plan["space"].get("constraints") else ""
    return (
        f"share: of the variance of the predicted {state.metric} after {rung_told(evidence, 0)} over the whole space{unconstrained}, not over "
        f"what was tried; 95 %: of this surrogate's share, over resampled trials; {sure}. by chance: how often shuffled scores go "
        "with the field as much. Shares at later rungs are of survivors alone, a picked sample. An association, not yet a cause: search.ablate --path trains what it supposes"
    )  # fmt: skip


def path_view(evidence: Evidence) -> View:
    """A row a change on the way from the base to the best, in the order that gains most."""
    rows: list[Row] = [
        {"step": "base" if not step.changes else " and ".join(step.changes),
         "to": ", ".join(f"{name}={show(value)}" for name, value in step.changes.items()),
         "predicted": step.score, "gain": step.gain if step.changes else math.nan, "low": step.low, "high": step.high}
        for step in evidence.path
    ]  # fmt: skip
    columns: dict[str, Tell] = {
        "change": lambda r: r["to"] or r["step"],
        "predicted": lambda r: number(r["predicted"]),
        "gain": lambda r: number(r["gain"], r["low"], r["high"], signed=True),
        "95 % over trials": lambda r: interval(r["low"], r["high"], signed=True),
    }  # fmt: skip
    told = (
        f"predicted {evidence.state.metric} after {rung_told(evidence, 0)}; each step is the change that gains most where it "
        f"stands (Fawcett and Hoos). Trained for real by: python -m search.ablate --path base best --study {evidence.folder}"
    )
    return View("path", "from the base to the best", rows, columns, told, frozenset(), frozenset({"change"}))
