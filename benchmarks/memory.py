"""What finished in-process runs leave behind: nothing that grows.

In a process of its own, whose memory is looked at on the way; prints one line of JSON.

    python -m benchmarks.memory [RUNS]
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import anyio

from benchmarks.noops import nothing
from benchmarks.processes import ROOT
from taskservice import AnyIOBackend

__all__ = ["measure_memory"]

BATCH: Final = 1_000
MARKS: Final = (0.1, 0.2, 0.5, 1.0)
BOUND_MB: Final = 10.0
SECONDS: Final = 1800


def measure_memory(runs: int) -> dict[str, Any]:
    """Return the resident megabytes of a process after shares of ``runs``, and whether they are flat."""
    argv = [sys.executable, "-m", "benchmarks.memory", str(runs)]
    told = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=SECONDS)
    found: dict[str, Any] = json.loads(told.stdout)
    return found


async def _run(runs: int) -> dict[int, float]:
    marks = {max(BATCH, int(runs * mark)) for mark in MARKS}
    samples: dict[int, float] = {}
    async with AnyIOBackend() as backend:
        for done in range(BATCH, runs + 1, BATCH):
            for handle in [await backend.launch_task(nothing) for _ in range(BATCH)]:
                await handle.result()
            if done in marks:
                gc.collect()
                samples[done] = round(_resident(), 1)
    return samples


def _resident() -> float:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    # Elsewhere the peak, which a leak moves as well; bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    """Launch them, and print what was seen."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    samples = anyio.run(_run, runs)
    # The first share fills pools and caches, which then stay.
    _, *later = samples.values()
    growth = round(later[-1] - later[0], 1)
    found = {"runs": runs, "resident_mb": samples, "growth_mb": growth, "bound_mb": BOUND_MB}
    sys.stdout.write(json.dumps({**found, "flat": growth <= BOUND_MB}) + "\n")


if __name__ == "__main__":
    main()
