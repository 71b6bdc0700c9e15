"""A table: raw values (what CSV gets) and how each column is told (Markdown, LaTeX, terminal and page)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from results.tables import Row, show

LEAST_DECIMALS, MOST_DECIMALS = 2, 4

Tell = Callable[[Row], str]


@dataclass(frozen=True)
class View:
    """A table: raw rows, and by heading how a row is told."""

    name: str
    title: str
    rows: list[Row]
    columns: Mapping[str, Tell]
    caption: str
    bold: frozenset[int] = frozenset()  # rows that are best
    texts: frozenset[str] = field(default_factory=frozenset)  # headings of columns that are words

    def cells(self) -> list[list[str]]:
        """The told cells, row by row."""
        return [[tell(row) for tell in self.columns.values()] for row in self.rows]


def interval_decimals(low: float, high: float) -> int:
    """Decimals that an interval supports: two digits of its half width."""
    half = (high - low) / 2
    if math.isnan(half) or half <= 0:
        return 3
    return min(MOST_DECIMALS, max(LEAST_DECIMALS, 1 - math.floor(math.log10(half))))


def number(value: float, low: float = math.nan, high: float = math.nan, signed: bool = False) -> str:
    """A score rounded to what its interval supports; "-" for none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:{'+' if signed else ''}.{interval_decimals(low, high)}f}"


def interval(low: float, high: float, signed: bool = False) -> str:
    """An interval as text; "-" for none."""
    if math.isnan(low) or math.isnan(high):
        return "-"
    decimals, sign = interval_decimals(low, high), "+" if signed else ""
    return f"{low:{sign}.{decimals}f} .. {high:{sign}.{decimals}f}"


def teller(name: str) -> Tell:
    """Tells a column as it is; "-" in a row without it."""
    return lambda row: show(row.get(name))
