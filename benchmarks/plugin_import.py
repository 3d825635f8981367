"""What the plugin costs a suite that does not use it.

Runs ``pytest --collect-only`` on one empty test with and without the plugin, in turn, and prints the medians
and their difference. The promise is 20 ms.

    python benchmarks/plugin_import.py [RUNS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMISE_MS = 20.0


def run(directory: Path, *options: str) -> float:
    """Return the wall time of one pytest process, in milliseconds."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:valkey", "--collect-only", *options, "."]
    start = time.perf_counter()
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return (time.perf_counter() - start) * 1000


def main() -> int:
    """Measure, print a table and one line of JSON; fail if the promise is broken."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    times: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "test_nothing.py").write_text("def test_nothing(): pass\n")
        for _ in range(runs + 1):
            times["with"].append(run(directory))
            times["without"].append(run(directory, "-p", "no:taskservice"))
    # The first round compiles.
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    cost = medians["with"] - medians["without"]
    for name, value in medians.items():
        print(f"pytest {name:<8} the plugin   {value:7.1f} ms (median of {runs})")
    print(f"cost of the plugin         {cost:7.1f} ms (promised: at most {PROMISE_MS:g})")
    print(json.dumps({"plugin_import_ms": round(cost, 1), "runs": runs}))
    return 0 if cost <= PROMISE_MS else 1


if __name__ == "__main__":
    sys.exit(main())
