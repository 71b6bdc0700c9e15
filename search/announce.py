"""What a study says before it starts: its plan, and with --dry-run how long it will take."""

from __future__ import annotations

import statistics
from typing import Any

from detector.config import DetectorConfig
from detector.config_rules import OWN_TRUNKS
from detector.data.places import free_disk_bytes
from detector.weights import Weights
from results.ablation import changed
from results.state import StudyState
from search.disk import worst_case_bytes
from search.forecast import (
    LONE_SPEEDUP,
    PROBED_CONFIGS,
    SECONDS_TO_REPORT,
    SECONDS_TO_START,
    Forecast,
    probe_epoch_seconds,
    simulate,
)
from search.plan import Study
from search.rungs import Scheduler
from search.sampler import make_sampler
from search.shown import BEST_SHOWN, NEWEST_SHOWN
from spaces.distributions import Choice


def print_plan(study: Study, expected: Forecast, say: Any) -> None:
    """The plan: data, profile, space, rungs or steps, resources, and where output goes."""
    plan, data = study.plan, study.plan["dataset"]
    base = study.space.base
    more = f" ({data['extended_images']} with the extended split)" if "extended_images" in data else ""
    test = f", {data['test_images']} held out" if data["test_images"] else ""
    turn = "a full turn" if data["full_turn"] else "not a full turn"
    lines = {
        "study": f"{plan['name']}" + (" (resumed)" if study.resumed else ""),
        "data": f"{data['name']}: {data['train_images']} train{more}, {data['val_images']} val{test}; "
        f"{data['train_boxes']} + {data['val_boxes']} boxes, {len(data['classes'])} classes, {turn}",
        "images": study.images_words,
        "profile": f"{plan['profile']}: {_trunk(base)} on {base.image_size_px[0]} x {base.image_size_px[1]} pixels; "
        f"{'; '.join(study.space.notes) or 'nothing fitted'}",
        **({"weights": _weights(study)} if not plan.get("trainer") else {}),
        **(_ablation_lines(study) if study.steps else _search_lines(study, expected)),
        "machine": study.resources.describe(),
        **({"disk": _disk(study)} if study.checkpoint_bytes else {}),
        "output": f"{study.link}, a copy in {study.folder}" if study.link else str(study.folder),
    }
    for name, text in lines.items():
        say(f"{name:>8}  {text}")
    if study.extend_to:
        say(
            f"  longer  to {study.extend_to} epochs: the best {study.plan['top']} of those that finished {_goes_on(study)}"
        )
    for step in study.steps:
        say(f"    step  {step.name}: {changed(step.changes)}" + (f"  [{step.about}]" if step.about else ""))
    for note in plan["dropped"][:5]:
        say(f" dropped  {note}")
    if len(plan["dropped"]) > 5:
        say(f" dropped  .. {len(plan['dropped'])} in all, listed in study.json")


def _trunk(base: DetectorConfig) -> str:
    return f"{base.trunk} x {base.trunk_width:g}" if base.trunk in OWN_TRUNKS else base.trunk


def _weights(study: Study) -> str:
    """What the base starts from, and where that comes from."""
    sources = [Weights(**weights).describe() for weights in study.plan.get("weights", [])]
    if study.space.base.pretrained == "none":
        return "; ".join(["the base starts from random weights", *sources])
    return f"{'; '.join(sources)}; {study.start}"


def _disk(study: Study) -> str:
    """The checkpoints' worst case, and what is free."""
    plan, keep = study.plan, study.plan.get("keep", "all")
    restarts = plan["top"] if study.extend_to else 0
    trials = plan["trials"] + trials_after(plan) + restarts + bool(plan.get("polish")) + bool(plan.get("audit_base"))
    constant = "constant" in schedules_of(study)
    beside = (
        plan.get("finalists", 0) + 2 if plan.get("finalists", 0) else 0
    )  # the base and the winner's longer training too
    most = worst_case_bytes(study.checkpoint_bytes, trials, study.resources.slots, keep, constant, beside)
    free = free_disk_bytes(study.folder)
    warning = "; this may not fit: --keep best needs the least" if most > free else ""
    whose = ", by the size of our own detector's" if plan.get("trainer") else ""
    return f"checkpoints at most {most / 1e9:.2g} GB (--keep {keep}{whose}), {free / 1e9:.3g} GB free{warning}"


def trials_after(plan: dict[str, Any]) -> int:
    """Trials that are trained to the end once the search is over: fresh seeds and audits."""
    measured = plan.get("top", 0) + 1  # the base too
    return int(plan.get("seeds_final", 0) * measured + plan.get("audit", 0))


def schedules_of(study: Study) -> list[str]:
    """The learning-rate schedules that a study's trials may have."""
    entry = study.space.fields.get("schedule")
    return list(entry.options) if isinstance(entry, Choice) else [study.space.base.schedule]


def _search_lines(study: Study, expected: Forecast) -> dict[str, str]:
    plan = study.plan
    after = trials_after(plan)
    more = f", then up to {after * study.levels[-1]} of {after} trials trained to the end" if after else ""
    polish = plan.get("polish", 0)
    more += (
        f", then {polish} of the winner once more, on a longer schedule (--no-polish leaves them out)" if polish else ""
    )
    more += ", then of the base alone as many as all of these take" if plan.get("audit_base") else ""
    rungs = ", ".join(f"~{n} reach {level}" for level, n in zip(study.levels, expected.trials_by_rung, strict=True))
    unit = plan.get("budget_unit", "epochs")
    return {
        "space": f"{plan['space']['space']}, {len(study.space.fields)} fields: {', '.join(study.space.fields)}",
        "search": f"{plan['sampler']} proposes, {plan['scheduler']} prunes, {plan['trials']} trials (the first is the base), "
        f"seed {plan['seed']}, by {plan['metric']}; rungs judge by the {plan.get('prune_on', 'last')} score, tables rank by "
        f"the {plan.get('rank_on', 'best')}{_objectives(plan)}{_after(plan)}{_view(plan)}",
        "rungs": f"{rungs} {unit}; an epoch is {_epoch(study)}; about {expected.epochs:.0f} {unit} in the whole search{more}",
    }


def _objectives(plan: dict[str, Any]) -> str:
    """The other objectives, where there are several: the first alone prunes."""
    others = plan.get("objectives", [])[1:]
    return (
        f"; a Pareto front of {plan['metric']} and {', '.join(others)}, the rungs judge by the first alone"
        if others
        else ""
    )


def _view(plan: dict[str, Any]) -> str:
    """What a sampler does not see of a long study."""
    most = NEWEST_SHOWN + BEST_SHOWN
    if plan["trials"] <= most or plan["sampler"] in ("random", "grid", "qmc"):
        return ""
    return f"; of more than {most} trials {plan['sampler']} sees the newest {NEWEST_SHOWN} and the best {BEST_SHOWN} of those before, as optuna.db does"


def _goes_on(study: Study) -> str:
    """How finished trials come to a longer study's end, by the schedules that they may have."""
    others = [schedule for schedule in schedules_of(study) if schedule != "constant"]
    repeated = study.plan["top"] * study.levels[-1]
    again = f"start again with the longer {' or '.join(others)}, which repeats up to {repeated} epochs"
    on = "go on from before their decay, where that checkpoint was kept (else they repeat theirs too)"
    if not others:
        return on
    return again if "constant" not in schedules_of(study) else f"{again}; those with a constant one {on}"


def _after(plan: dict[str, Any]) -> str:
    """What comes after the search, in words."""
    finals, audit = plan.get("seeds_final", 0), plan.get("audit", 0)
    words = f"; then the {plan['top']} best and the base on {finals} fresh seeds" if finals else ""
    return words + (f"; then an audit of {audit} pruned trials" if audit else "")


def _ablation_lines(study: Study) -> dict[str, str]:
    plan, steps = study.plan, study.steps
    seeds = plan["trials"] // len(steps)
    return {
        "chain": f"{plan['space']['space']}, {len(steps)} steps x {seeds} seeds (from {plan['seed']}) = {plan['trials']} trainings",
        "length": f"{plan['epochs']} epochs each; an epoch is {_epoch(study)}, unless a step changes it",
    }


def _epoch(study: Study) -> str:
    base = study.space.base
    if not base.steps_per_epoch:
        return "one pass"
    passes = base.steps_per_epoch * base.batch_size / study.plan["dataset"]["train_images"]
    return f"{base.steps_per_epoch} steps of {base.batch_size} images ({passes:.2g} passes)"


def print_forecast(study: Study, scheduler: Scheduler, say: Any) -> None:
    """The predicted wall time, from one-batch probes: of the base and a few proposals, or of every step of a chain."""
    plan, slots = study.plan, study.resources.slots
    if study.steps:
        configs = [study.space.base.with_values(step.values).to_dict() for step in study.steps]
        say(f"probing one batch of {len(configs)} steps")
    else:
        sampler = make_sampler("random", study.space, plan["seed"], [plan["metric"]])
        blank = StudyState(plan["metric"], plan["levels"])
        proposals = [sampler.propose(number, blank) or {} for number in range(1, PROBED_CONFIGS + 1)]
        configs = [study.space.base.to_dict(), *(study.space.config(values).to_dict() for values in proposals)]
        say("probing one batch of the base and a few proposals")
    seconds = probe_epoch_seconds(
        configs, plan["source"], plan["skip_bad"], slots, study.resources.threads, study.resources.torch_device
    )
    unit = plan.get("budget_unit", "epochs")
    unit_seconds = [1.0] if unit == "seconds" else seconds  # what each of the budget takes
    forecast = simulate(scheduler, plan["trials"], slots, unit_seconds, plan.get("finalists", 0))
    after, polish = trials_after(plan) * study.levels[-1], plan.get("polish", 0)
    each = statistics.fmean(unit_seconds)
    training = forecast.seconds + after * each / slots + polish * each / (LONE_SPEEDUP if slots > 1 else 1)
    after += polish
    if plan.get("audit_base"):
        training += training * slots / (LONE_SPEEDUP if slots > 1 else 1)  # it runs alone
        after = 2 * after + int(forecast.epochs)
    total = SECONDS_TO_START + training + SECONDS_TO_REPORT
    say(f"  probed  {min(seconds):.1f} .. {max(seconds):.1f} s per epoch, {slots} at a time")
    whole = ", those that it has trained already included" if study.resumed else ""
    say(f"predicted {total / 60:.1f} minutes for {forecast.epochs + after:.0f} {unit} of the whole study{whole}")
