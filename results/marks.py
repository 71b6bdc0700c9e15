"""What a chart is made of: marks with plain numbers, whoever draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# Okabe and Ito's colours, which readers with any colour vision tell apart; grey for what is in the background.
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999")
GREY, BEST_COLOUR = "#999999", "#D55E00"


@dataclass(frozen=True)
class Line:
    """A line through points."""

    x: Sequence[Any]
    y: Sequence[float]
    name: str
    colour: str
    width: float = 1.2
    dashed: bool = False
    steps: bool = False
    legend: bool = False
    points: bool = True


@dataclass(frozen=True)
class Points:
    """Points by themselves."""

    x: Sequence[Any]
    y: Sequence[float]
    texts: Sequence[str]
    name: str
    colour: str
    size: float = 7.0
    legend: bool = False


@dataclass(frozen=True)
class Bars:
    """Horizontal bars from a start, with whiskers where low and high are numbers."""

    labels: Sequence[str]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    name: str
    colour: str
    starts: Sequence[float] = ()


@dataclass(frozen=True)
class Heat:
    """Counts in cells."""

    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Axis:
    """One axis of parallel coordinates: numbers, or positions of named options."""

    name: str
    values: Sequence[float]
    options: Sequence[str] = ()
    places: Sequence[float] = ()  # of the options; by default 0, 1, ..


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates, each line a trial, coloured by a score."""

    axes: Sequence[Axis]
    colour_by: Sequence[float]
    colour_name: str


Mark = Line | Points | Bars | Heat | Parallel


@dataclass(frozen=True)
class Chart:
    """Marks on axes, with what to read in it."""

    name: str  # of its file and place in the page
    title: str
    marks: Sequence[Mark]
    x: str = ""
    y: str = ""
    reading: str = ""  # what it shows and what not, in a sentence
    log_x: bool = False
    vertical_lines: Sequence[float] = field(default_factory=tuple)
    from_zero: bool = False
