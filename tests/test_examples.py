from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(EXAMPLES / name)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


def test_the_refund_example_prints_what_the_documentation_says() -> None:
    ran = run("refund.py")

    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "1 status WAITING",
        "2 status RUNNING",
        "3 question INPUT",
        "asked: pay back 12? ",
        "4 status INPUT_OVER",
        "5 status RUNNING",
        "6 question INPUT",
        "asked: pay back 12? approved: Input should be a valid boolean, unable to interpret input",
        "7 status INPUT_OVER",
        "8 status RUNNING",
        "9 progress {'percent': 50}",
        "10 status SUCCESS",
        "result: 12",
        "again: [9, 10]",
        "loaded once: [7]",
        "bob: workflow_expired",
    ]


def test_the_canvas_example_prints_what_the_documentation_says() -> None:
    ran = run("canvas.py")

    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "group: [1, 2, 3]",
        "chain: 106 in 7 runs",
        "map: [1, 2]",
        "chord: LookupError('no page 9') ['SUCCESS', 'FAILURE', 'FAILURE']",
        "refused: chain[1] is the list it stands in: a cycle never ends",
    ]
