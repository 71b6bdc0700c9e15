"""From a study folder to tables, plots and pages that people can trust. In a notebook: `results.load("runs/A").trials`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from results.frames import StudyFrames, load

__all__ = ["StudyFrames", "load"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then: commands do not wait for pandas."""
    if name in __all__:
        from results import frames

        return getattr(frames, name)
    raise AttributeError(f"module 'results' has no attribute {name!r}")
