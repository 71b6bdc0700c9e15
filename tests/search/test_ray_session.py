"""Ray for a study: started once, and gone afterwards whatever happened meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SESSION = """
from pathlib import Path
from search import ray_session
from search.ray_session import RaySession
with RaySession() as session:
    ray = session.start(1, lambda: 0)
    assert ray.is_initialized()
    assert session.start(1, lambda: 0) is ray  # a second start would raise: Ray refuses to start twice
    folder = Path(session._temp_dir)
    assert folder.is_dir()
assert not ray.is_initialized()
assert not folder.exists()
with RaySession() as session:
    session.stop()  # what was never started may be stopped
try:
    with RaySession() as session:
        session.start(1, lambda: 0)
        folder = Path(session._temp_dir)
        raise KeyError("a user's mistake, found while Ray runs")
except KeyError:
    pass
assert not ray.is_initialized()
assert not folder.exists()
start = ray_session.start_ray
def interrupted(*given):
    start(*given)
    raise KeyboardInterrupt
ray_session.start_ray = interrupted
try:
    with RaySession() as session:
        session.start(1, lambda: 0)
except KeyboardInterrupt:
    pass
assert not ray.is_initialized()  # half started is ended too
"""


def test_a_session_starts_ray_once_and_leaves_nothing() -> None:
    subprocess.run([sys.executable, "-c", SESSION], check=True, timeout=600, cwd=Path(__file__).parents[2])
