"""Two sides of a claim measured in turn in one run, and the table that every benchmark prints.

Whatever else a machine does meets both sides alike: they take turns, and medians and their ratio are what counts.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from detector.profile import peak_memory_bytes, processor_name, reset_peak_memory

NOT_MEASURED = "not measured"
ROUNDS = 5
OF_A_SIDE = "GiB: peak memory of this process beyond what stood before, without processes that it started"
OF_ITS_PROCESS = (
    "GiB: peak memory of a side's own process beyond what its imports took, without processes that it started"
)
IN_TURN = "medians, sides in turn"
APART = "medians, each side in a process of its own (ours keeps freed memory), in turn"
OF_A_COMMAND = "GiB: peak of the whole process tree, what is shared counted once (of its largest trial)"


@dataclass(frozen=True)
class Measured:
    """One side of a claim."""

    value: float  # median over the rounds
    peak_gib: float | None = None  # memory at most: of a whole command, or beyond what stood before it began
    trial_gib: float | None = None  # of the largest trial's process, where trials have processes of their own


@dataclass(frozen=True)
class Claim:
    """A row of a table: two sides, and the ratio between them that is to reach the bar."""

    what: str
    unit: str
    bar: float | None = None  # how many times better ours is to be
    theirs: Measured | None = None  # None: not measured
    ours: Measured | None = None
    more_is_better: bool = False
    note: str = ""
    at_most: float | None = None  # or what ours is to be, in the unit

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if self.theirs is None or self.ours is None:
            return None
        better, worse = (self.ours, self.theirs) if self.more_is_better else (self.theirs, self.ours)
        return better.value / worse.value if worse.value else float("inf")


def seconds_of(call: Callable[[], object]) -> float:
    """Wall seconds of one call; a GPU is waited for."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that goes afterwards; what is made and kept of data meanwhile, here and in processes started here, lies in it."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        try:
            yield Path(folder)
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def in_turn(sides: Mapping[str, Callable[[], float]], rounds: int = ROUNDS, warmup: int = 1) -> dict[str, Measured]:
    """Runs every side once a round, each giving the number that it measured; medians, and the peak memory of each on the CPU."""
    where = torch.device("cpu")
    for _ in range(warmup):
        for side in sides.values():
            side()
    found: dict[str, list[float]] = {name: [] for name in sides}
    peaks = dict.fromkeys(sides, 0.0)
    for _ in range(rounds):
        for name, side in sides.items():
            gc.collect()
            before = memory_bytes(where)
            reset_peak_memory(where)
            found[name].append(side())
            peaks[name] = max(peaks[name], (peak_memory_bytes(where) - before) / 2**30)
    return {name: Measured(statistics.median(rows), peaks[name]) for name, rows in found.items()}


def in_turn_apart(
    sides: Mapping[str, Callable[[], Callable[[], float]]], rounds: int = ROUNDS, device: str = "cpu"
) -> dict[str, Measured]:
    """As `in_turn`, with every side in a process of its own: what one sets for its process, the other does not have.

    A side is a function that pickles; called there, it makes what is to be measured and gives the function that measures
    once.

    Raises: RuntimeError where a side's process ends; it has said why.
    """
    context = multiprocessing.get_context("spawn")
    peaks = dict.fromkeys(sides, 0.0)

    def ask(name: str, pipe: Connection) -> float:
        try:
            pipe.send(None)
            value, peaks[name] = pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(f"{name}: its process ended; see above for why") from error
        return float(value)

    with contextlib.ExitStack() as ends:
        asked = {}
        for name, side in sides.items():
            pipe, other_end = context.Pipe()
            worker = context.Process(target=_serve, args=(side, device, other_end))
            worker.start()
            ends.callback(worker.join)
            ends.callback(pipe.close)  # comes first, and ends it
            other_end.close()
            asked[name] = partial(ask, name, pipe)
        found = in_turn(asked, rounds)
    return {name: replace(side, peak_gib=peaks[name]) for name, side in found.items()}


def _serve(side: Callable[[], Callable[[], float]], device: str, pipe: Connection) -> None:
    """A side's process: (number, peak GiB so far) as often as it is asked."""
    where = torch.device(device)
    before = memory_bytes(where)
    measure = side()
    reset_peak_memory(where)  # what it took to get ready is not what is measured
    while _is_asked(pipe):
        value = measure()
        with contextlib.suppress(ConnectionError):  # nobody asks any more
            pipe.send((value, (peak_memory_bytes(where) - before) / 2**30))
    del measure
    gc.collect()  # what it has begun, such as a loader's workers, ends before this process does


def _is_asked(pipe: Connection) -> bool:
    try:
        pipe.recv()
    except (EOFError, ConnectionError):
        return False
    return True


def memory_bytes(device: torch.device) -> int:
    """What is held now: on a GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine(*packages: str) -> str:
    """The machine and the versions of a table, in one line."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else "no GPU, "
    cores = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision", *packages))
    return f"{gpu}{cores} cores of {processor_name()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, {versions}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def print_table(
    claims: Sequence[Claim], about: str, *packages: str, how: str = IN_TURN, memory: str = OF_A_SIDE
) -> None:
    """The table of a benchmark, after a line on what was measured and one on the machine."""
    print(f"{about}\n\n{machine(*packages)}; {how}; {memory}.\n")
    print("| | theirs | ours | unit | ratio | bar | | GiB theirs | GiB ours |")
    print("|---|---:|---:|---|---:|---:|---|---:|---:|")
    for claim in claims:
        print(as_row(claim))


def as_row(claim: Claim) -> str:
    """A claim as a row of the table."""
    ratio = claim.ratio
    bar, verdict = "-", ""
    if claim.ours is None:
        verdict = NOT_MEASURED
    elif ratio is not None and claim.bar is not None:
        verdict = "reached" if ratio >= claim.bar else "missed"
    elif claim.at_most is not None:
        verdict = "reached" if claim.ours.value < claim.at_most else "missed"
    if claim.bar is not None:
        bar = f">= {claim.bar:.3g}"
    elif claim.at_most is not None:
        bar = f"< {claim.at_most:g} {claim.unit}"
    cells = [
        f"{claim.what}{f' ({claim.note})' if claim.note else ''}", _number(claim.theirs), _number(claim.ours), claim.unit,
        f"{ratio:.2f}" if ratio is not None else "-", bar, verdict,
        _memory(claim.theirs), _memory(claim.ours),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _number(side: Measured | None) -> str:
    return f"{side.value:.4g}" if side else "-"


def _memory(side: Measured | None) -> str:
    if side is None or side.peak_gib is None:
        return "-"
    return f"{side.peak_gib:.2f}" + (f" ({side.trial_gib:.2f})" if side.trial_gib else "")
