"""Metrics of a worker's main process and its children, in one folder that both sides write to.

It is Prometheus' multiprocess mode: each process has files in ``PROMETHEUS_MULTIPROC_DIR``. A child of
a prefork pool is known by its slot and not by its pid, so that children who come and go by the
thousand share a few files; `prometheus_client.values` asks for such an identifier where one is used.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from taskservice.errors import ConfigurationError
from taskservice.telemetry.extra import load_extra

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["collected"]

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
PREFIX: Final = "taskservice-metrics-"
LOCK: Final = ".lock"


@contextmanager
def collected() -> Iterator[Path]:
    """Have what this process and its children count gathered in a folder; it is gone afterwards.

    A folder that is there already, by the variable, is used and left. What a worker that was killed
    left behind goes first. To be called before anything imports `prometheus_client`.
    """
    given = os.environ.get(VARIABLE)
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
        yield Path(given)
        return

    if sys.modules.get("prometheus_client") is not None:
        raise ConfigurationError(
            f"prometheus_client was imported before the worker's metrics were set up: set {VARIABLE} to a "
            "folder for the worker, or start it by `taskservice worker --metrics-port`"
        )
    parent = Path(tempfile.gettempdir())
    _sweep(parent)
    with ExitStack() as stack:
        # Locked before the folder is there, so that nobody takes it for an abandoned one.
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=LOCK, dir=parent)
        os.close(handle)
        stack.callback(Path(name).unlink, missing_ok=True)
        stack.enter_context(_locked(Path(name)))
        folder = Path(name.removesuffix(LOCK))
        folder.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        os.environ[VARIABLE] = str(folder)
        stack.callback(os.environ.pop, VARIABLE, None)
        _identify_by_slot()
        yield folder


def _identify_by_slot() -> None:
    values: Any = load_extra("prometheus_client.values", "metrics")
    values.ValueClass = values.MultiProcessValue(process_identifier=_identity)


def _identity() -> str:
    from billiard.process import current_process

    process: Any = current_process()
    index = getattr(process, "index", None)
    # A process that a run has forked is not the child that has the slot.
    return str(os.getpid()) if index is None or process.pid != os.getpid() else f"slot{index}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The lock ends with the last process that has the file open, however it ends.
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _sweep(parent: Path) -> None:
    for lock in parent.glob(f"{PREFIX}*{LOCK}"):
        folder = lock.with_suffix("")
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with _locked(lock):
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
        except OSError:  # in use, or gone in between
            continue
