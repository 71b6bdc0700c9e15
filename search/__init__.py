"""Searches and ablations on Ray Tune. From Python: `from search import Options, run_study` (see docs/from_python.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.options import Options
    from search.study import StudyResult, run_study

__all__ = ["Options", "StudyResult", "run_study"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then: `import search` alone brings nothing, and `python -m search.run` no warning."""
    if name == "Options":
        from search.options import Options

        return Options
    if name in ("run_study", "StudyResult"):
        from search import study

        return getattr(study, name)
    raise AttributeError(f"module 'search' has no attribute {name!r}")
