from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_canvas_example_prints_what_the_documentation_says() -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / "canvas.py")], capture_output=True, text=True, timeout=60, check=False
    )

    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "group: [1, 2, 3]",
        "chain: 106 in 7 runs",
        "map: [1, 2]",
        "chord: LookupError('no page 9') ['SUCCESS', 'FAILURE', 'FAILURE']",
        "refused: chain[1] is the list it stands in: a cycle never ends",
    ]
