"""What a trial's numbers rest on: its detections of the ranked epoch against the study's ground truth, matched once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.importance import Importance
from results.matching import Matches, match
from results.path import PathStep, ablation_path
from results.records import GROUND_TRUTH_NAME, JournalError
from results.resampling import REPLICATES, ImageInterval, class_intervals, mAP_interval
from results.state import Trial, read_study
from results.tables import delivered, winner

DETECTIONS_NAME = "detections.json"


def read_ground_truth(folder: Path) -> dict[str, Any] | None:
    """The validation split of a study folder as a COCO object; None in a study from before it was kept there.

    Raises: JournalError for a file that is cut.
    """
    path = folder / GROUND_TRUTH_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise JournalError(
            f"{path}: must be the validation split as COCO JSON; reading it said: {error}. Restore it from a copy"
        ) from None
    assert isinstance(content, dict)
    return content


def matches_of(folder: Path, ground_truth: dict[str, Any], trial: str) -> Matches | None:
    """A trial's matches: as stored, or made and stored where its detections are newer; None where it has none."""
    try:
        content = (folder / "trials" / trial / DETECTIONS_NAME).read_bytes()
        detections = json.loads(content)
    except (OSError, ValueError):
        return None
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    stored = folder / "trials" / trial / f"matches-{digest}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
        return Matches.from_bytes(stored.read_bytes())
    found = match(ground_truth, detections)
    with contextlib.suppress(OSError):  # of a folder that may only be read
        for old in stored.parent.glob("matches-*.npz"):
            old.unlink()
        unfinished = stored.with_suffix(".unfinished")
        unfinished.write_bytes(found.to_bytes())
        os.replace(unfinished, stored)
    return found


def groups_of(ground_truth: dict[str, Any], key: str | None) -> Sequence[Any] | None:
    """The group of each image by a key of the images' COCO records; None where images stand for themselves.

    Raises: JournalError where images lack the key.
    """
    if key is None:
        return None
    images = sorted(ground_truth["images"], key=lambda row: row["id"])
    lacking = [row["file_name"] for row in images if key not in row]
    if lacking:
        raise JournalError(
            f"--group-by {key}: every image of the validation annotations must have {key!r}; {len(lacking)} of {len(images)} have "
            f"not, {lacking[0]} for one. Its records have {', '.join(sorted(images[0]))}"
        )
    return [row[key] for row in images]


class Evidence:
    """A study with what its numbers rest on; what takes long is worked out once for all tables and plots."""

    def __init__(self, folder: Path, group_by: str | None = None, seed: int = 0) -> None:
        """Reads the study of a folder; `group_by`: key of the images' records whose images are not independent.

        Raises: JournalError where the folder is no study, or its images lack the key to group by.
        """
        self.folder, self.group_by, self.seed = folder, group_by, seed
        self.plan, self.state = read_study(folder)
        self.ground_truth = read_ground_truth(folder)
        if group_by is not None and self.ground_truth is None:
            raise JournalError(f"--group-by {group_by}: {folder} is from before studies kept their ground truth")
        self.groups = groups_of(self.ground_truth, group_by) if self.ground_truth else None
        self._matches: dict[str, Matches | None] = {}
        self._images: dict[str, tuple[float, float]] = {}
        self._classes: dict[str, list[ImageInterval]] = {}

    @functools.cached_property
    def winner(self) -> Trial | None:
        """The trial that best.yaml holds."""
        return delivered(self.state)

    @functools.cached_property
    def importance(self) -> Importance:
        """What mattered over the space."""
        return Importance(self.plan, self.state)

    @functools.cached_property
    def path(self) -> list[PathStep]:
        """From the base to the best, as the surrogate predicts; nothing where there are too few trials or no way."""
        base, best = next(iter(self.state.with_role("search")), None), winner(self.state)
        surrogate = self.importance.surrogate
        if surrogate is None or base is None or best is None or best is base:
            return []
        return ablation_path(surrogate, self.importance.prior, base.config, best.config)

    def matches(self, trial: str) -> Matches | None:
        """A trial's detections against the ground truth; None where the study has not kept them."""
        if trial not in self._matches:
            self._matches[trial] = matches_of(self.folder, self.ground_truth, trial) if self.ground_truth else None
        return self._matches[trial]

    def image_interval(self, trial: str) -> tuple[float, float]:
        """95 % of a trial's mAP over validation images; NaN without matches."""
        found = self.matches(trial)
        if found is None:
            return math.nan, math.nan
        if trial not in self._images:
            interval = mAP_interval(found, self.groups, seed=self.seed)
            self._images[trial] = interval.low, interval.high
        return self._images[trial]

    def class_intervals(self, trial: str) -> list[ImageInterval]:
        """The same for each class; none without matches."""
        found = self.matches(trial)
        if found is None:
            return []
        if trial not in self._classes:
            self._classes[trial] = class_intervals(found, self.groups)
        return self._classes[trial]

    def about_images(self) -> str:
        """What an interval over images was drawn from."""
        images = f"{self.plan['dataset']['val_images']} validation images"
        units = f"{len(set(map(str, self.groups)))} groups ({self.group_by}) of the {images}" if self.groups else images
        return f"{REPLICATES} bootstrap samples of the {units}, the bias of AP on few images taken off"
