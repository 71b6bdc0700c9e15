"""`python -m results.compare A B`: the best of two studies beside each other, and whether the data can tell them apart.

Two sources of variance, each with its own interval: images (both bests on the same validation images, drawn together)
and seeds (where both studies trained their best on fresh ones). Studies on other data are not subtracted.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

from results.evidence import Evidence
from results.records import JournalError
from results.rendering import add_table_options, print_views
from results.resampling import class_difference_intervals, difference_interval
from results.state import Trial
from results.statistics import CONFIDENCE, POWER, detectable_by_interval, minimum_detectable, paired_difference
from results.tables import Row, show, winner
from results.view import View, interval, number

LEAST_SHARED = 2  # seeds that both have, from which on they are paired


def compare(a: Evidence, b: Evidence) -> list[View]:
    """Scores with differences (B minus A), AP by class, and what the two configurations differ in.

    Raises: JournalError where a study has no score yet.
    """
    best = {"A": _best_of(a), "B": _best_of(b)}
    alike = a.plan["dataset"]["fingerprint"] == b.plan["dataset"]["fingerprint"]
    return [_scores(a, b, best, alike), _classes(a, b, best, alike), _fields(best)]


def _best_of(evidence: Evidence) -> Trial:
    """The search's own trial of the top row of configs.csv: one training of each study, none picked among seeds."""
    best = evidence.winner
    if best is None or math.isnan(best.ranked_score(evidence.state.metric)):
        raise JournalError(f"{evidence.folder}: must have a trial that has scored to be compared; it has none")
    return best


def _scores(a: Evidence, b: Evidence, best: Mapping[str, Trial], alike: bool) -> View:
    rows: list[Row] = []
    for name, evidence in (("A", a), ("B", b)):
        trial, state = best[name], evidence.state
        minutes = sum(t.seconds for t in state.trials.values()) / 60
        score = trial.score("mAP", trial.ranked_epoch(state.metric) or trial.last_epoch)
        rows.append(
            {"study": f"{name}: {evidence.plan['name']}", "trial": trial.id, "epochs": trial.last_epoch, "mAP": score,
             "trials": len(state.trials), "minutes": minutes, "low": math.nan, "high": math.nan, "over": ""}
        )  # fmt: skip
    told = []
    if alike:
        matches = [evidence.matches(best[name].id) for name, evidence in (("A", a), ("B", b))]
        if matches[0] is not None and matches[1] is not None:
            found = difference_interval(matches[1], matches[0], a.groups, seed=a.seed)
            rows.append(_difference("images", found.value, found.low, found.high))
            smallest = minimum_detectable(found.sd, found.groups - 1)
            told.append(
                f"over images: {a.about_images()}, the same for both, of one training each; {_detectable(smallest)}"
            )
        else:
            told.append(
                "no interval over images: a study from before ground truth was kept, or its detections are gone"
            )
        rows += _over_seeds(a, b, best, told)
    else:
        told.append(
            f"no difference: A has data {a.plan['dataset']['fingerprint']}, B {b.plan['dataset']['fingerprint']}; scores on other "
            "data do not compare"
        )
    columns = {
        "": lambda r: r["study"],
        "trial": lambda r: r["trial"],
        "epochs": lambda r: show(r["epochs"]),
        "mAP": lambda r: number(r["mAP"], r["low"], r["high"], signed=bool(r["over"])),
        "95 %": lambda r: interval(r["low"], r["high"], signed=True),
        "trials": lambda r: show(r["trials"]),
        "minutes": lambda r: "-" if r["minutes"] is None else f"{r['minutes']:.1f}",
    }
    return View("compare", "best of each", rows, columns, "; ".join(told), frozenset(), frozenset({"", "trial"}))


def _difference(over: str, value: float, low: float, high: float) -> Row:
    name = f"B - A, over {over}"
    nothing = dict.fromkeys(("epochs", "trials", "minutes"))
    return {"study": name, "trial": "", **nothing, "mAP": value, "low": low, "high": high, "over": over}


def _over_seeds(a: Evidence, b: Evidence, best: Mapping[str, Trial], told: list[str]) -> list[Row]:
    """The difference of the means over fresh seeds: paired where two or more are shared, else by Welch's t."""
    from scipy.stats import ttest_ind

    scores = []
    for name, evidence in (("A", a), ("B", b)):
        own = winner(evidence.state) or best[name]  # fresh seeds are of the study's length, whatever was trained longer
        finals = [t for t in evidence.state.with_role("final") if t.config_hash == own.config_hash]
        found = {t.seed: t.ranked_score("mAP") for t in finals if t.outcome == "finished"}
        scores.append({seed: score for seed, score in found.items() if not math.isnan(score)})
    if min(map(len, scores)) < 2:
        told.append("no interval over seeds: run both with --seeds-final 3")
        return []
    paired = paired_difference(scores[1], scores[0])
    if paired is not None and paired.n >= LEAST_SHARED:
        smallest = detectable_by_interval(paired.low, paired.high, paired.n - 1)
        told.append(
            f"over seeds: paired t on the {paired.n} that both have, correlation {show(paired.correlation)}; {_detectable(smallest)}"
        )
        return [_difference("seeds", paired.mean, paired.low, paired.high)]
    columns = [list(row.values()) for row in scores]
    welch = ttest_ind(columns[1], columns[0], equal_var=False)
    spread = welch.confidence_interval(CONFIDENCE)
    sure = detectable_by_interval(float(spread.low), float(spread.high), int(welch.df))
    told.append(
        f"over seeds: Welch's t of {len(columns[0])} and {len(columns[1])} seeds, none shared; {_detectable(sure)}"
    )
    gap = statistics.fmean(columns[1]) - statistics.fmean(columns[0])
    return [_difference("seeds", gap, float(spread.low), float(spread.high))]


def _detectable(difference: float) -> str:
    """How small a difference would have been told from none."""
    return (
        "no smallest difference is known"
        if math.isnan(difference)
        else f"{POWER:.0%} of such comparisons would tell {difference:.3f} from none"
    )


def _classes(a: Evidence, b: Evidence, best: Mapping[str, Trial], alike: bool) -> View:
    names = list(dict.fromkeys([*a.plan["dataset"]["classes"], *b.plan["dataset"]["classes"]]))
    spread: dict[str, tuple[float, float]] = {}
    matches = [evidence.matches(best[name].id) for name, evidence in (("A", a), ("B", b))]
    if alike and matches[0] is not None and matches[1] is not None:
        found = class_difference_intervals(matches[1], matches[0], a.groups, a.seed)
        spread = {name: (gap.low, gap.high) for name, gap in zip(matches[0].class_names, found, strict=True)}
    rows: list[Row] = []
    for name in names:
        row: Row = {"class": name}
        for which, evidence in (("A", a), ("B", b)):
            trial = best[which]
            row[which] = trial.score(f"class:{name}", trial.ranked_epoch(evidence.state.metric) or trial.last_epoch)
        low, high = spread.get(name, (math.nan, math.nan))
        rows.append({**row, "difference": row["B"] - row["A"] if alike else math.nan, "low": low, "high": high})
    columns = {
        "class": lambda r: r["class"],
        "A": lambda r: number(r["A"]),
        "B": lambda r: number(r["B"]),
        "B - A": lambda r: number(r["difference"], r["low"], r["high"], signed=True),
        "95 % over images": lambda r: interval(r["low"], r["high"], signed=True),
    }
    return View("classes", "AP by class", rows, columns, "each class by itself, not corrected for their number", texts=frozenset({"class"}))  # fmt: skip


def _fields(best: Mapping[str, Trial]) -> View:
    """The fields in which the two configurations differ; a field that only one of them has stands empty in the other."""
    configs = {name: trial.config for name, trial in best.items()}
    names = [n for n in dict.fromkeys([*configs["A"], *configs["B"]]) if configs["A"].get(n) != configs["B"].get(n)]
    rows: list[Row] = [{"field": name, "A": configs["A"].get(name), "B": configs["B"].get(name)} for name in names]
    columns = {"field": lambda r: r["field"], "A": lambda r: show(r["A"]), "B": lambda r: show(r["B"])}
    told = "fields that the two configurations do not share" if rows else "the two configurations are the same"
    return View("fields", "what differs", rows, columns, told, texts=frozenset({"field", "A", "B"}))


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m results.compare", description="The best of two studies beside each other."
    )
    parser.add_argument("a", type=Path, help="study folder")
    parser.add_argument("b", type=Path, help="study folder")
    add_table_options(parser)
    options = parser.parse_args(arguments)
    try:
        found = compare(Evidence(options.a, options.group_by), Evidence(options.b))
    except (JournalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print_views(found, options.kind)


if __name__ == "__main__":
    main()
