"""The held-out split, scored at a study's end: base and winner on each seed, and what was trained longer."""

from __future__ import annotations

from typing import Any

from results.state import StudyState, Trial
from results.tables import LONGER, base_of, delivered, held_out_scores
from results.verdict import compared_trials
from search.engine import Engine
from search.plan import Study
from search.storage.copies import best_places, best_weights
from search.storage.store import get_files
from search.worker import WorkerError, run_job

ENDS = ("done", "space_exhausted")  # reasons for which a study has come to its own end


def score_held_out(study: Study, engine: Engine, reason: str, asked: bool, say: Any) -> None:
    """Scores what the verdict compares, and the study's best.pt, on the held-out split, from their ranked epochs' weights.

    Each trial once, and so not before the study's end: a study that was stopped may yet have another winner. `asked`: whether
    the user named the split (--test), who is then told why nothing was scored.
    """
    missing = _why_not(study, reason)
    if missing:
        if asked:
            say(f"--test: {missing}")
        return
    state, done = engine.state, held_out_scores(engine.state)
    trials = [trial for trial in to_score(state) if trial.id not in done]
    if not trials:
        if asked:
            say("--test: all of these trials were scored before; the held-out split is touched once for each")
        return
    if study.link:
        get_files(study.store, [best_weights(t) for trial in trials for t in (trial.id, trial.of) if t], study.folder)
    job = {
        "folder": str(study.folder),
        "trials": [[trial.id, best_places(trial)] for trial in trials],
        "source": study.plan["source"],
        "skip_bad": study.plan["skip_bad"],
        "official_eval": study.plan["official_eval"],
        "device": study.resources.torch_device,
    }
    try:
        scored = run_job("search.heldout", job)
    except WorkerError as error:
        say(f"    test  scoring the held-out split failed: {error}")
        return
    for trial in [trial for trial in trials if trial.id not in scored]:
        say(f"    test  trial {trial.number} ({trial.id}) has no weights any more (--keep); it is not scored")
    for trial in [trial for trial in trials if trial.id in scored]:
        metrics, which = scored[trial.id], name_of(state, trial)
        engine.record("test_scored", trial=trial.id, which=which, metrics=metrics)
        say(f"    test  {which} (trial {trial.number}): mAP {metrics['mAP']:.3f}, AP50 {metrics['AP50']:.3f}")


def _why_not(study: Study, reason: str) -> str:
    """Why nothing can be scored on the held-out split; "" where it can."""
    if reason not in ENDS:
        return "the study has not come to its end; the held-out split is touched once, then"
    if study.plan.get("trainer"):
        return "it scores our own detector's weights; score a trainer of your own by its own means"
    if not study.plan["dataset"]["test_images"]:
        return "the dataset has no test.json; nothing was scored"
    return ""


def to_score(state: StudyState) -> list[Trial]:
    """The trials whose held-out scores say something: the verdict's, the best at full length, and what was trained longer."""
    best = delivered(state)
    longer = [t for role in LONGER for t in state.with_role(role) if t.outcome == "finished"]
    found = [*compared_trials(state), *longer, *([best] if best is not None else [])]
    return [t for t in {t.id: t for t in found}.values() if t.epochs and t.outcome != "diverged"]


def name_of(state: StudyState, trial: Trial) -> str:
    """What a scored trial is: base, best, or the role in which it was trained longer."""
    if trial.role in LONGER:
        return trial.role
    base = base_of(state)
    return "base" if base is not None and trial.config_hash == base.config_hash else "best"
