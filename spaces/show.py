"""`python -m spaces.show retinanet`: what a space searches, around which base, with which budget, and its chain."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from detector.config import ConfigError, DetectorConfig
from spaces.distributions import AtHand, Fitted, SpaceEntry, SpaceError, When
from spaces.loading import load_space, space_names
from spaces.space import Profile, Space


def describe(space: Space) -> dict[str, Any]:
    """The space as plain values, for people and for --json."""
    return {
        "name": space.name,
        "about": space.about,
        "constraints": [constraint.text for constraint in space.constraints],
        "profiles": {name: _profile(profile) for name, profile in space.profiles.items()},
    }


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "budget": vars(profile.budget),
        "max_pixels": profile.max_pixels,
        "base": dict(profile.base),
        "fields": {
            name: {"base": _base(profile, name), "searched": entry_text(entry)}
            for name, entry in profile.fields.items()
        },
        "chain": [{"name": step.name, "change": dict(step.changes), "about": step.about} for step in profile.chain],
    }


def _base(profile: Profile, name: str) -> Any:
    return profile.base.get(name, getattr(DetectorConfig, name))


def entry_text(entry: SpaceEntry) -> str:
    """What a field may be, in words."""
    if isinstance(entry, Fitted):
        return f"fitted to the training boxes x {entry.low:g} .. {entry.high:g} (log)"
    if isinstance(entry, AtHand):
        return f"{', '.join(entry.trunks)}, as far as their weights are on the machine"
    if isinstance(entry, When):
        cases = "; ".join(f"{case}: {option.describe()}" for case, option in entry.cases.items())
        return f"by {entry.field}: {cases}"
    return entry.describe()


def as_text(told: Mapping[str, Any]) -> str:
    """The description as lines for a terminal."""
    lines = [f"{told['name']}: {told['about']}"]
    lines += [f"  constraint: {text}" for text in told["constraints"]]
    for name, profile in told["profiles"].items():
        budget = ", ".join(f"{key} {value}" for key, value in profile["budget"].items())
        lines += ["", f"profile {name}: {budget}; canvas of at most {profile['max_pixels']:,} pixels"]
        width = max((len(field) for field in profile["fields"]), default=0)
        for field, entry in profile["fields"].items():
            lines.append(f"  {field:<{width}}  base {entry['base']!s:<12}  {entry['searched']}")
        rest = {key: value for key, value in profile["base"].items() if key not in profile["fields"]}
        lines.append("  base besides: " + ", ".join(f"{key}={value}" for key, value in rest.items()))
        lines += [f"  step {step['name']}: {step['change'] or 'the base'}" for step in profile["chain"]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m spaces.show", description="Shows what a space searches.")
    parser.add_argument("space", help=f"a space by name ({', '.join(space_names())}), or a .py or .yaml file")
    parser.add_argument("--json", action="store_true", help="print one JSON object (default: text)")
    options = parser.parse_args(arguments)
    try:
        told = describe(load_space(options.space))
    except (SpaceError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(told, default=list) if options.json else as_text(told))


if __name__ == "__main__":
    main()
