"""What collecting scenario files costs: a hundred files of three documents each.

Prints the CPU time of reading them, by libyaml and without it, and how much more of it pytest's
collection takes for all of them than for one: played once each, for which the promise is one second, and
with twenty seeds each, which are so many tests.

    python benchmarks/collecting.py [ROUNDS]
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

import yaml

from pytest_taskservice.scenario.load import load

PROMISE_S = 1.0
FILES = 100
SEEDS = 20
DOCUMENT = """\
schema: 1
name: all workers busy {number}
tags: [busy]
backends: [celery-sim, celery, anyio]
seeds: {seeds}
config: {{busy_after: 10s, celery: {{task_acks_late: true, visibility_timeout: 30s}}}}
workers: {{count: 2, concurrency: 1}}
tasks:
  hog: {{runs_for: 60s}}
  flaky: {{fails_with: "ValueError: no", fails_times: 2, retry: {{max_attempts: 3, delay: 1s}}}}
workflows:
  quick: [{{run: 1s}}, {{ask: approve, timeout: 1h}}, {{emit: {{percent: 50}}}}]
beat:
  nightly: {{launch: hog, cron: "0 2 * * *", timezone: Europe/Berlin}}
steps:
  - {{at: 0s, launch: hog, count: 2}}
  - {{at: 1s, start: quick, as: run}}
  - {{follow: run, as: ann}}
  - {{at: 5s, inject: pause, for: 3s, as: nap}}
  - {{at: 20s, input: run, value: true, as: answer}}
expect:
  at:
    - {{time: 10s, of: run, status: WAITING}}
    - {{time: 12s, of: run, status: FAILED, reason: busy}}
  never:
    - {{of: run, status: SUCCESS}}
  sometimes:
    - {{of: workers, all_occupied: true}}
"""


def write(directory: Path, *, files: int = FILES, seeds: int = 1) -> Path:
    """Write so many files, and return their directory."""
    directory.mkdir()
    for number in range(files):
        documents = (DOCUMENT.format(number=each, seeds=seeds) for each in range(3))
        (directory / f"{number}.scenario.yaml").write_text("---\n".join(documents))
    return directory


def read(paths: list[Path]) -> float:
    """Return the CPU seconds of reading all files."""
    start = time.process_time()
    for path in paths:
        load(path)
    return time.process_time() - start


def collect(directory: Path) -> float:
    """Return the CPU seconds of collecting a directory."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--collect-only",
        "-p",
        "no:cacheprovider",
        str(directory),
    ]
    command.append("--taskservice-backend=celery-sim")
    before = os.times()
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    user, system = after.children_user - before.children_user, after.children_system - before.children_system
    return user + system


def main() -> int:
    """Measure, print a table and one line of JSON; fail if the promise is broken."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as name:
        few = write(Path(name) / "few", files=1)
        once, often = write(Path(name) / "once"), write(Path(name) / "often", seeds=SEEDS)
        paths = sorted(once.iterdir())
        read(paths[:1])
        fast = statistics.median(read(paths) for _ in range(rounds))
        vars(yaml)["__with_libyaml__"] = False
        slow = read(paths)
        collect(few)  # compiles
        whole, seeded = (
            statistics.median(collect(many) - collect(few) for _ in range(rounds)) for many in (once, often)
        )
    for what, seconds in (
        (f"reading {FILES} files, libyaml", fast),
        (f"reading {FILES} files without it", slow),
        (f"pytest collecting them, {3 * FILES} tests, at most {PROMISE_S:g}", whole),
        (f"pytest collecting them, {3 * FILES * SEEDS:,} tests", seeded),
    ):
        print(f"{what:<50} {seconds:6.2f} s of CPU")
    figures = {"collecting_s": whole, "seeded_s": seeded, "reading_s": fast}
    print(json.dumps({name: round(seconds, 2) for name, seconds in figures.items()} | {"rounds": rounds}))
    return 0 if whole <= PROMISE_S else 1


if __name__ == "__main__":
    sys.exit(main())
