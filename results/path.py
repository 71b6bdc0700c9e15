"""The ablation path: which of the changes from one configuration to another earned the gain, and in which order.

Fawcett and Hoos, Analysing differences between algorithm configurations through ablation, Journal of Heuristics 2016: from
the first configuration on, the change that raises the score most is made next, until the other configuration is reached.
Here on predicted scores, as in Biedenkapp et al., Efficient Parameter Importance Analysis via Ablation with Surrogates,
AAAI 2017; `python -m search.ablate --path base best` trains the steps that matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.config import ConfigError, DetectorConfig
from results.prior import Prior, same
from results.surrogate import Surrogate


@dataclass(frozen=True)
class PathStep:
    """One change on the way; of several fields only where one of them depends on another, or none can change alone."""

    changes: dict[str, Any]
    score: float  # predicted, after the change
    low: float = math.nan  # 95 % of `gain` over bootstrap samples of the trials
    high: float = math.nan
    gain: float = 0.0  # over the step before


def changed_fields(base: DetectorConfig, target: Mapping[str, Any]) -> dict[str, Any]:
    """The consumed fields of a target that differ from a base, in the config's order."""
    plain = base.to_dict()
    return {name: value for name, value in target.items() if not same(value, plain[name])}


def ablation_path(
    surrogate: Surrogate, prior: Prior, start: Mapping[str, Any], target: Mapping[str, Any]
) -> list[PathStep]:
    """From a start to a target, the first step being the start itself; both are consumed fields of configurations."""
    base = prior.base.with_values(start)
    left = changed_fields(base, target)
    done: dict[str, Any] = {}
    told = surrogate.by_group([_consumed(base, done)])[:, 0]
    steps = [PathStep({}, float(told.mean()))]
    while left:
        candidates = [changes for changes in together(prior, left) if _is_change(base, done, changes)]
        if not candidates:  # no field can go alone: rules across fields bind the rest together, or nothing reads it
            candidates = [dict(left)] if _is_change(base, done, left) else []
        if not candidates:
            break
        scores = surrogate.by_group([_consumed(base, {**done, **changes}) for changes in candidates])
        best = int(scores.mean(axis=0).argmax())
        gains = scores[:, best] - told
        low, high = np.percentile(gains, [2.5, 97.5])
        told = scores[:, best]
        steps.append(PathStep(candidates[best], float(told.mean()), float(low), float(high), float(gains.mean())))
        done |= candidates[best]
        left = {name: value for name, value in left.items() if name not in done}
    return steps


def together(prior: Prior, changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Changes as they go: each by itself, but a field whose range depends on another goes with that one."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        above = prior.depends_on(name)
        groups.setdefault(above if above in changes else name, {})[name] = value
    return list(groups.values())


def _consumed(base: DetectorConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    return base.with_values(values).active_dict()


def _is_change(base: DetectorConfig, done: Mapping[str, Any], more: Mapping[str, Any]) -> bool:
    """Whether a change makes another configuration that is one."""
    try:
        return base.with_values({**done, **more}).hash() != base.with_values(done).hash()
    except ConfigError:
        return False


def that_matter(steps: Sequence[PathStep], share: float) -> list[dict[str, Any]]:
    """The changes of a path to be trained one by one, in order: predicted to bring at least a share of all gains; the
    others together at the end."""
    gains = [step.gain for step in steps[1:]]
    if any(math.isnan(gain) for gain in gains):  # nobody predicted: each by itself
        return [step.changes for step in steps[1:]]
    least = share * sum(gain for gain in gains if gain > 0)
    singles = [step.changes for step in steps[1:] if step.gain >= least and step.gain > 0]
    rest = {name: value for step in steps[1:] if step.changes not in singles for name, value in step.changes.items()}
    return [*singles, rest] if rest else singles
