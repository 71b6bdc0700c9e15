"""What a study says before it starts, in the unit that its budget has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from search.announce import print_forecast, print_plan
from search.forecast import SECONDS_TO_REPORT, SECONDS_TO_START, simulate
from search.plan import Study
from search.rungs import make_scheduler
from tests.search.builders import planned

pytestmark = pytest.mark.usefixtures("two_cores_of_its_own")


def plan_of(study: Study) -> str:
    """The plan as it is printed."""
    lines: list[str] = []
    print_plan(study, simulate(make_scheduler("asha", study.levels, 3), study.plan["trials"], 2, [1.0]), lines.append)
    return "\n".join(lines)


@pytest.mark.parametrize("unit", ["epochs", "seconds"])
def test_rungs_are_told_in_the_unit_of_the_budget(tmp_path: Path, data: Path, unit: str) -> None:
    (rungs,) = [line for line in plan_of(planned(tmp_path, data, budget_unit=unit)).splitlines() if "rungs  " in line]
    assert re.search(
        rf"~12 reach 1, ~\d reach 3, ~\d reach 9 {unit}; an epoch is .*; about \d+ {unit} in the whole", rungs
    )


@pytest.mark.slow
def test_seconds_of_training_take_as_long_whatever_an_epoch_takes(tmp_path: Path, data: Path) -> None:
    study = planned(tmp_path, data, budget_unit="seconds", seeds_final=1, top=2)
    scheduler = make_scheduler("asha", study.levels, 3)
    lines: list[str] = []
    print_forecast(study, scheduler, lines.append)
    probed, predicted = lines[-2:]
    fastest, slowest = re.search(r"probed  ([\d.]+) \.\. ([\d.]+) s per epoch", probed).groups()
    assert float(fastest) <= float(slowest)
    search = simulate(scheduler, 12, study.resources.slots, [1.0], study.plan["finalists"])
    finals = 3 * 9  # the two best and the base
    minutes = (SECONDS_TO_START + search.seconds + finals / study.resources.slots + SECONDS_TO_REPORT) / 60
    assert predicted == f"predicted {minutes:.1f} minutes for {search.epochs + finals:.0f} seconds of the whole study"
