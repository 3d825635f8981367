"""Files that nobody can play, as pytest collects them: a line with a place each, no traceback, no pass."""

from __future__ import annotations

import re
from random import Random

import pytest

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.load import load_text

GOOD = """\
schema: 1
name: a parcel
backends: [celery-sim]
tasks: {pack: {runs_for: 1s, returns: packed}}
steps:
  - {at: 0s, launch: pack, as: run}
expect:
  eventually:
    - {within: 9s, of: run, status: SUCCESS, result: packed}
"""
BAD: dict[str, str | bytes] = {
    "tab": GOOD.replace("  - {at", "\t- {at"),
    "twice": GOOD + "name: another\n",
    "bomb": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n" + GOOD,
    "alias": GOOD.replace("returns: packed", "returns: *packed"),
    "tag": GOOD.replace("returns: packed", "returns: !!python/object/apply:os.system [touch called]"),
    "deep": GOOD.replace("packed}}", "[" * 5000 + "]" * 5000 + "}}"),
    "unclosed": GOOD.replace("1s, returns: packed}}", "1s"),
    "huge": GOOD.replace("1s,", f"{'9' * 5000}s,"),
    "unit": GOOD.replace("1s,", "1 fortnight,"),
    "no-unit": GOOD.replace("1s,", "1:00:10,"),
    "word": GOOD.replace("launch", "lunch"),
    "uncaptured": GOOD.replace("as: run", "as: other"),
    "impossible": GOOD.replace("9s", "500ms"),
    "empty": "",
    "none": "---\n---\n",
    "binary": bytes(range(256)),
    "utf16": GOOD.encode("utf-16"),
    "large": GOOD + "#" * 1_100_000,
}
PLACE = r"^{}\.scenario\.yaml:\d+:\d+: \S.*$"


def spoiled(seed: int) -> str:
    """A file with a few characters put in, left out, or in each other's place, that is no scenario."""
    random = Random(seed)
    while True:
        text = list(GOOD)
        for _ in range(random.randint(1, 4)):
            place = random.randrange(len(text))
            text[place : place + random.randint(0, 3)] = random.choice(
                ["", "{", "]", ": ", "\n", "\0", "é", "-"]
            )
        try:
            load_text("".join(text), "f.yaml")
        except ScenarioError:
            return "".join(text)


def test_what_is_no_scenario_is_a_line_with_its_place(pytester: pytest.Pytester) -> None:
    files = BAD | {f"fuzz{seed}": spoiled(seed) for seed in range(40)}
    for name, text in files.items():
        data = text if isinstance(text, bytes) else text.encode()
        pytester.path.joinpath(f"{name}.scenario.yaml").write_bytes(data)
    pytester.path.joinpath("right.scenario.yaml").write_text(GOOD)

    result = pytester.runpytest_subprocess(
        "--taskservice-backend=celery-sim", "--continue-on-collection-errors"
    )

    result.assert_outcomes(passed=1, errors=len(files))
    output = "\n".join(result.outlines)
    unplaced = [name for name in files if not re.search(PLACE.format(name), output, re.MULTILINE)]
    assert unplaced == []
    assert "Traceback" not in output + "\n".join(result.errlines)
    assert not pytester.path.joinpath("called").exists()


def test_a_file_that_cannot_be_read_is_a_line_with_its_place(pytester: pytest.Pytester) -> None:
    """Its first read fails, whoever runs this: root may read everything else."""
    pytester.path.joinpath("a.scenario.yaml").symlink_to("/proc/self/mem")

    result = pytester.runpytest_subprocess("--taskservice-backend=celery-sim")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["a.scenario.yaml:1:1: cannot be read: Input/output error"])
    result.stdout.no_fnmatch_line("*load.py*")


FLOW = """\
schema: 1
name: call {number}
backends: [celery-sim, celery-eager, anyio]
workflows:
  refund: {{call: {call}}}
steps: [{{start: refund, as: run}}]
expect: {{never: [{{of: run, status: SUCCESS}}]}}
"""


def test_a_workflow_that_is_none_fails_with_its_line_and_cause(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        flows="from pathlib import Path\ndef plain(*args): Path('called').touch()",
        broken="1 / 0",
        lacking="import nowhere",
        ending="raise SystemExit(3)",
        skipping="import pytest; pytest.skip('not today', allow_module_level=True)",
        speechless="class Bad(BaseException):\n    def __str__(self): return 1\nraise Bad",
        unreadable="def f(:",
        asking="def __getattr__(name): raise RuntimeError(name)",
    )
    calls = ["os.system", "flows.plain", "nowhere.flow", "broken.flow", "lacking.flow", "ending.flow"]
    calls += ["skipping.flow", "speechless.flow", "unreadable.flow", "asking.flow"]
    documents = [FLOW.format(number=number, call=call) for number, call in enumerate(calls)]
    pytester.path.joinpath("a.scenario.yaml").write_text("---\n".join(documents))

    result = pytester.runpytest_subprocess("--taskservice-backend=celery-sim,celery-eager,anyio")

    result.assert_outcomes(failed=4 * len(calls))
    result.stdout.fnmatch_lines_random(
        [
            "a.scenario.yaml:6:*: unknown workflow 'os.system'; known: none",
            "a.scenario.yaml:14:*: unknown workflow 'flows.plain'; known: none",
            "a.scenario.yaml:22:*: unknown workflow 'nowhere.flow'; known: none",
            (
                "a.scenario.yaml:30:*: cannot import 'broken' for the workflow 'broken.flow': "
                "ZeroDivisionError: division by zero, at *broken.py:1"
            ),
            "a.scenario.yaml:38:*: ModuleNotFoundError: No module named 'nowhere', at *lacking.py:1",
            "a.scenario.yaml:46:*: SystemExit: 3, at *ending.py:1",
            "a.scenario.yaml:54:*: Skipped: not today, at *",
            "a.scenario.yaml:62:*: Bad: its text raised TypeError, at *speechless.py:3",
            "a.scenario.yaml:70:*: SyntaxError: invalid syntax, at *unreadable.py:1",
            "a.scenario.yaml:78:*: RuntimeError: flow, at *asking.py:1",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    assert not pytester.path.joinpath("called").exists()
