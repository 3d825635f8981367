"""A process that forks workers which have imported everything: they are there in a moment.

It reads a byte for each worker to start, and answers with a line: its pid, which is its group's too.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

import celery.apps.worker
import celery.concurrency.prefork
import celery.worker.consumer

from taskservice import load_settings
from taskservice.worker.launch import run_worker

__all__ = ["main"]

PRELOADED = (
    celery.apps.worker,
    celery.concurrency.prefork,
    celery.worker.consumer,
    import_module("chaos_flows"),
)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here asks how they ended
    while os.read(0, 1):
        pid = os.fork()
        if pid == 0:
            _be_worker()
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _be_worker() -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    try:
        run_worker(settings=load_settings(), concurrency=2, loglevel="INFO")
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
