"""Fixtures of the search's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def no_fsync() -> Iterator[None]:
    """Journals by the thousand: what they hold is under test here, not the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.journal.os.fsync", lambda file: None)
        yield
