"""A study that goes on: its frozen plan taken up again, and what may be extended."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from detector.config import DetectorConfig
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource, DetectionDataset
from detector.identity import weights_path
from results.records import JOURNAL_NAME, PLAN_NAME, JournalError, read_journal, read_plan
from search.dataset import config_check, describe_dataset
from search.journal import Journal
from search.kept_images import keep_images
from search.options import Options, StudyError, check_choices, parse_set_fields
from search.plan import Study, polish_epochs, resources_of
from search.storage.copies import COPY_OF, bring_home, may_hold, original_of, studies_in, study_store
from search.storage.data import source_here
from search.storage.store import above, below, is_link, last_name, open_store
from spaces.fitting import DatasetFacts
from spaces.loading import load_space
from spaces.space import ResolvedSpace, resolve

# The options that name data file by file: split of the source, and whether annotations or images.
SPLIT_OPTIONS = {
    "train_annotations": ("train", 0), "train_images": ("train", 1), "val_annotations": ("val", 0), "val_images": ("val", 1),
    "extended_annotations": ("extended", 0),
}  # fmt: skip
# What --resume may change; everything else is the plan's.
EXTENDS = (
    "trials",
    "max_hours",
    "seeds_final",
    "top",
    "audit",
    "reuse",
    "keep",
    "max_failures",
    "memory_per_trial",
    "cache",
    "cache_limit",
    "polish",
    "audit_base",
)  # stand in the journal then
EDITED = ("fields", "constraints")  # of the space, by --space-edit
MAY_CHANGE = (*EXTENDS, "runs_dir", "storage", "name", "resume", "seeds", "cpus_per_trial", "gpus_per_trial", "concurrent", "accelerator_type", "test", "dry_run",
              "epochs", "space_edit")  # fmt: skip


OTHER_DATA = "scores on other data do not compare"
OTHER_RUNGS = "its rungs have judged by it, and what it pruned would have been judged otherwise"
OTHER_TRAINING = "every trial was trained with it, and others would not compare"
OWN_STUDY = "it is part of how every trial came about"
WHY_FIXED = {
    **dict.fromkeys(("data", *SPLIT_OPTIONS, "skip_bad"), OTHER_DATA),
    **dict.fromkeys(("metric", "objective", "prune_on", "scheduler", "eta", "grace"), OTHER_RUNGS),
    **dict.fromkeys(
        ("set_fields", "pretrained", "trainer", "imagenet_weights", "profile", "budget_unit"), OTHER_TRAINING
    ),
    "rank_on": "the weights and detections that were kept are those of the epochs that it ranks",
    "official_eval": "scores of two evaluators in one table do not compare to the last digit",
    "start_from": "a known config is tried right after the base, which is over",
    **dict.fromkeys(
        ("sampler", "seed"), "proposals follow from sampler, seed and number: another would repeat or skip some"
    ),
}


def resume_plan(options: Options, say: Any) -> Study:
    """The plan of a study that is to go on; trials and hours may be extended, the rest stays as it was.

    Raises: StudyError where there is no such study, its data changed, or something else was asked to change.
    """
    check_choices(options)
    link, folder = find_study_in_store(options) if options.storage else ("", _own_study(options))
    plan = read_plan(folder)
    _refuse_other(folder, plan, options)
    # study.json is never rewritten: what an earlier session extended stands in the journal.
    records = read_journal(folder / JOURNAL_NAME) if (folder / JOURNAL_NAME).is_file() else []
    plan = _extended({**plan, **_last_session(records)}, options)
    levels, extend_to = _levels(plan, records, options.epochs)
    plan["polish"] = _polish(plan, options, extend_to, levels)
    source = source_here(plan["source"])
    space = ResolvedSpace.from_dict(plan["space"])
    dataset = load_dataset(DataSource.from_dict(source), plan["skip_bad"], space.base.train_split)
    if extend_to or levels != plan["levels"]:
        space.base = space.base.with_values({"schedule_epochs": extend_to or levels[-1]})
    if options.space_edit:
        plan |= _edited(options.space_edit, plan, dataset)
    if "fields" in plan:
        space = ResolvedSpace.from_dict({**space.to_dict(), **{name: plan[name] for name in EDITED if name in plan}})
    images = keep_images(plan, source, dataset, space, say)
    plan["source"] = images.source
    fingerprint = describe_dataset(dataset, images.caches)["fingerprint"]
    if fingerprint != plan["dataset"]["fingerprint"]:
        raise StudyError(
            f"{folder} was begun on data with fingerprint {plan['dataset']['fingerprint']}, {plan['dataset']['name']} now has "
            f"{fingerprint}: scores would not compare. Restore the data, or start a new study"
        )
    resources = resources_of(options, plan["trials"], plan["profile"] == "gpu")
    return Study(folder, plan, space, resources, True, levels, config_check(dataset), extend_to=extend_to, link=link,
                 images_words=images.words)  # fmt: skip


def _polish(plan: dict[str, Any], options: Options, extend_to: int | None, levels: list[int]) -> int:
    """Epochs of the winner's longer training: as asked, or as planned, and longer where the study is made longer."""
    had = int(plan.get("polish", 0))
    if options.polish is None and not (had and extend_to):
        return had
    factor = plan["space"]["budget"].get("polish", 1.0)
    return polish_epochs(options.polish, factor, extend_to or levels[-1], plan.get("budget_unit"), plan.get("trainer"))


def _own_study(options: Options) -> Path:
    """The study that --resume means, which is no copy of one that lives elsewhere.

    Raises: StudyError where it is, or where there is none.
    """
    folder = find_study(options)
    original = original_of(folder)
    if original:
        raise StudyError(
            f"--resume: {folder} is a copy of {original}; go on with that by --storage {above(original)} --name {last_name(original)}, or "
            f"delete {folder / COPY_OF} to make the copy a study of its own, which has no checkpoints"
        )
    return folder


def _refuse_other(folder: Path, plan: dict[str, Any], options: Options) -> None:
    """Raises: StudyError where a user asks for another kind or space of study than this one, or to change what is fixed."""
    if _kind(plan) != options.kind:
        raise StudyError(f"--resume: {folder} is {KINDS[_kind(plan)]}")
    if options.space is not None and not _searches(plan, options.space):
        raise StudyError(f"--resume: {folder} searches the space {plan['space_option']}, not {options.space}")
    default = Options(kind=options.kind)
    changed = [
        name for name in vars(options)
        if name not in MAY_CHANGE and name != "space" and getattr(options, name) != getattr(default, name)
        and not _says_what_the_plan_says(options, name, plan)
    ]  # fmt: skip
    if changed:
        raise StudyError(_refusal(folder, plan, options, changed))


def _extended(plan: dict[str, Any], options: Options) -> dict[str, Any]:
    """The plan with what a user adds to it."""
    asked = {
        name: value for name in EXTENDS if (value := getattr(options, name)) not in (None, []) and value is not False
    }
    if "reuse" in asked:
        asked["reuse"] = [*plan.get("reuse", []), *(str(Path(run).resolve()) for run in asked["reuse"])]
    if options.seeds:
        asked["trials"] = options.seeds * len(plan["steps"])
    return {**plan, **asked}


KINDS = {
    "search": "a search; go on with it by python -m search.run",
    "ablation": "an ablation; go on with it by python -m search.ablate",
}


def _kind(plan: dict[str, Any]) -> str:
    return str(plan.get("kind", "search"))


def _searches(plan: dict[str, Any], space: str) -> bool:
    """Whether a plan is of the space that an option names: by its name, or by the file it was given as."""
    return space in (plan["space"]["space"], plan["space_option"])


def _last_session(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What may be extended, as the study's last session had it; nothing before the first."""
    sessions = [record for record in records if record["event"] == "session_started"]
    return {name: sessions[-1][name] for name in (*EXTENDS, *EDITED) if name in sessions[-1]} if sessions else {}


def _levels(plan: dict[str, Any], records: list[dict[str, Any]], epochs: int | None) -> tuple[list[int], int | None]:
    """(the rungs after all earlier extensions, the epochs that this session adds on top).

    Raises: StudyError for epochs that a study cannot be cut to or extended by.
    """
    levels = next((r["levels"] for r in reversed(records) if r["event"] == "levels_extended"), plan["levels"])
    if epochs in (None, levels[-1]):
        return levels, None
    assert epochs is not None
    if epochs < levels[-1]:
        raise StudyError(f"--epochs {epochs}: the study trains to {levels[-1]} already; it can only be extended")
    if plan.get("budget_unit", "epochs") != "epochs" or plan.get("steps"):
        raise StudyError("--epochs extends a search whose budget is in epochs; start a new study for another length")
    return levels, epochs


def _edited(name: str, plan: dict[str, Any], dataset: DetectionDataset) -> dict[str, Any]:
    """The fields and constraints of a file on this study's data, as the plan has them; the study keeps its base.

    Raises: StudyError, SpaceError, ConfigError for a file that is no space, ranges that cannot be, or a grid.
    """
    if plan["sampler"] == "grid":
        raise StudyError("--space-edit: a grid is fixed by its space; start a new study, with --reuse of this one")
    edited = resolve(load_space(name), plan["profile"], DatasetFacts(**dataset.facts())).to_dict()
    return {name: edited[name] for name in EDITED}


def _option_name(attribute: str) -> str:
    return "--set" if attribute == "set_fields" else f"--{attribute.replace('_', '-')}"


def _says_what_the_plan_says(options: Options, name: str, plan: dict[str, Any]) -> bool:
    """Whether an option repeats the plan (a user who adds --resume to the old command line asks for no change)."""
    asked = getattr(options, name)
    if name in SPLIT_OPTIONS:
        split, place = SPLIT_OPTIONS[name]
        return bool(plan["source"].get(split) and str(Path(asked).resolve()) == plan["source"][split][place])
    if name == "objective":
        return bool(asked.split(",") == plan.get("objectives"))
    if name in plan and name != "space":
        return bool(plan[name] == asked)
    if name == "data" and is_link(asked):
        return bool(plan["source"].get("link") == asked)
    if name == "data":
        return bool(str(Path(asked).resolve() / "train.json") == plan["source"]["train"][0])
    if name == "pretrained":
        own = DetectorConfig.from_record(plan["space"]["base"]).pretrained
        return weights_path(own) in (asked, str(Path(asked).resolve()))
    if name == "set_fields":
        base = DetectorConfig.from_record(plan["space"]["base"]).to_dict()
        return all(
            DetectorConfig.from_dict(base).with_values({k: v}).to_dict() == base
            for k, v in parse_set_fields(asked).items()
        )
    return False


def _refusal(folder: Path, plan: dict[str, Any], options: Options, changed: list[str]) -> str:
    """What cannot be extended, what the study has instead, and why."""
    lines = [f"--resume: {folder} goes on with its own plan, which cannot change in"]
    for name in changed:
        has = plan.get("objectives" if name == "objective" else name)
        told = f" (the study has {has})" if has not in (None, "", []) and not isinstance(has, (dict, list)) else ""
        lines.append(f"  {_option_name(name)} {getattr(options, name)}{told}: {WHY_FIXED.get(name, OWN_STUDY)}")
    return "\n".join(
        [*lines, f"Leave it out, or start a new study; --reuse {folder} then trains nothing twice that both know"]
    )


def find_study_in_store(options: Options) -> tuple[str, Path]:
    """(link, this machine's copy) of the study that --resume means, the copy brought up to date: --name, or the only one.

    Raises: StudyError where there is none or several; JournalError while a search on this machine is running in the copy.
    """
    assert options.storage is not None
    name = options.name
    if name is None:
        there = studies_in(open_store(options.storage))
        if len(there) != 1:
            raise StudyError(
                f"--resume: name one of the {len(there)} studies in {options.storage} with --name: {', '.join(there) or 'none'}"
            )
        name = there[0]
    link, folder = below(options.storage, name), Path(options.runs_dir) / name
    try:
        store = study_store(link)
    except JournalError as error:
        raise StudyError(f"--resume: {error}") from None
    if not may_hold(folder, store):
        raise StudyError(f"--resume: {folder} holds another study than {link}; give another --runs-dir for its copy")
    Journal(folder / JOURNAL_NAME).close()  # refuses a copy that a search on this machine is writing
    bring_home(store, folder)
    return link, folder


def find_study(options: Options) -> Path:
    """The folder that --resume means: --name, else the newest study of this space."""
    runs = Path(options.runs_dir)
    if options.name:
        if not (runs / options.name / PLAN_NAME).is_file():
            raise StudyError(f"--resume --name {options.name}: {runs / options.name} holds no study ({PLAN_NAME})")
        return runs / options.name
    plans = sorted(runs.glob(f"*/{PLAN_NAME}"), key=lambda path: path.stat().st_mtime)
    found = []
    for path in plans:
        with contextlib.suppress(JournalError):  # a torn plan is no study to go on with
            plan = read_plan(path.parent)
            if _searches(plan, options.space_name) and _kind(plan) == options.kind:
                found.append(path)
    if not found:
        raise StudyError(f"--resume: there is no study of space {options.space_name} in {runs}; name one with --name")
    return found[-1].parent
