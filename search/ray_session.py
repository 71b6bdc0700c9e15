"""Ray for a study: started so that nothing listens beyond this machine, or joined where there is a cluster; and ended."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CONNECT_WITHIN_S = 10.0
REMOVALS = 50  # a tenth of a second apart
OBJECT_STORE_BYTES = 128 * 1024 * 1024  # only small reports travel; images come from the memory-mapped cache


def joins_cluster() -> bool:
    """Whether the user's environment names a cluster: RAY_ADDRESS, e.g. auto on its head node."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _quiet_environment() -> None:
    """What ray reads when it is imported or started, here and on a cluster."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # result.json and CSV of every leg: the journal has it
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "100000"  # Tune's own state is not what we resume from
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # placement.Interruption is the one handler
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # its banner ignores verbose=0
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"


def join_cluster() -> Any:
    """Connects to the cluster that RAY_ADDRESS names, once; returns ray.

    Raises: ValueError where there is none.
    """
    _quiet_environment()
    import ray

    if not ray.is_initialized():
        try:
            _knock(os.environ["RAY_ADDRESS"])
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError) as error:
            told = str(error).splitlines()[0]
            raise ValueError(
                f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: must be a running Ray cluster; {told}. Unset it to run on this machine"
            ) from None
    return ray


def _knock(address: str) -> None:
    """Raises: OSError where nothing listens at host:port; Ray itself would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), CONNECT_WITHIN_S).close()


def _remove(folder: Path) -> None:
    """Removes Ray's folder, into which those of its processes that outlive it for a moment may still write."""
    for _ in range(REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


class RaySession:
    """Ray for one study: started by the first `start`, ended by `stop` or with the `with` block."""

    def __init__(self) -> None:
        self._ray: Any = None
        self._temp_dir = ""

    def __enter__(self) -> RaySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, cores: int, gpus: Callable[[], int]) -> Any:
        """The module ray, running: with so much of this machine, or on the cluster that there is."""
        if self._ray is None and joins_cluster():
            self._ray = join_cluster()
        elif self._ray is None:
            self._temp_dir = tempfile.mkdtemp(prefix="ds-")  # short: Ray's socket paths must stay under 107 characters
            try:
                self._ray = start_ray(cores, gpus(), self._temp_dir)
            except BaseException:
                if "ray" in sys.modules:  # half started, its daemons may be up
                    sys.modules["ray"].shutdown()
                raise
        return self._ray

    def stop(self) -> None:
        """Ends it, if it runs."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None
        if self._temp_dir:
            _remove(Path(self._temp_dir))
            self._temp_dir = ""


def start_ray(cores: int, gpus: int, temp_dir: str) -> Any:
    """Starts Ray on this machine; returns the module.

    Every listener is put on 127.0.0.1 by a switch that must be set before ray is imported; only with that may its token
    check be off (a local start would write a token file into the home directory).
    """
    _quiet_environment()
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    with _daemons_in_sessions_of_their_own():
        ray.init(
            num_cpus=cores,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=temp_dir,
            configure_logging=True,
        )
    return ray


@contextlib.contextmanager
def _daemons_in_sessions_of_their_own() -> Iterator[None]:
    """Inside, Ray's daemons leave our process group: a signal to all of it (by a terminal, `timeout` or a batch system)
    is ours to answer, and with Ray gone first the study could end nothing in order.

    Ray has no setting for it; a Ray that starts its daemons in another way leaves them where they are.
    """
    services: Any = importlib.import_module("ray._private.services")
    starter = getattr(services, "ConsolePopen", None)
    if starter is not None:
        services.ConsolePopen = functools.partial(starter, start_new_session=True)
    try:
        yield
    finally:
        if starter is not None:
            services.ConsolePopen = starter
