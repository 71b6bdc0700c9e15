"""Sizes and speeds of an ablation's steps, measured once the machine is idle, in a process of their own."""

from __future__ import annotations

from typing import Any

from search.engine import Engine
from search.plan import Study
from search.worker import WorkerError, answer, run_job


def profile_steps(study: Study, engine: Engine, say: Any) -> None:
    """Journals parameters and speed of every step that has none yet; a failure is told and ends nothing."""
    known = {record["step"] for record in engine.state.records if record["event"] == "step_profiled"}
    missing = [step for step in study.steps if step.name not in known]
    if not missing:
        return
    say(f"measuring the speed of {len(missing)} steps")
    job = {
        "configs": [study.space.base.with_values(step.values).to_dict() for step in missing],
        "num_classes": len(study.plan["dataset"]["classes"]),
        "device": study.resources.torch_device,
    }
    try:
        rows = run_job("search.steps", job)
    except WorkerError as error:
        say(f"the steps' speed could not be measured: {error}")
        return
    for step, row in zip(missing, rows, strict=True):
        engine.record("step_profiled", step=step.name, **row)


def _measure(job: dict[str, Any]) -> list[dict[str, Any]]:
    from detector.config import DetectorConfig
    from detector.profile import profile_config

    return [
        profile_config(DetectorConfig.from_dict(values), job["num_classes"], job["device"]) for values in job["configs"]
    ]


if __name__ == "__main__":
    answer(_measure)
