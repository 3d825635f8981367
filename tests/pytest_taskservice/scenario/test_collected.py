"""Scenario files as pytest collects and plays them, in a process of their own."""

from __future__ import annotations

from textwrap import dedent

import pytest

STORY = """\
schema: 1
name: a parcel
backends: [celery-sim]
tasks: {pack: {runs_for: 1s}}
steps: [{launch: pack, as: run}]
expect: {eventually: [{within: 9s, of: run, status: SUCCESS}]}
"""
SEEDED = """
    from dataclasses import replace
    from pytest_taskservice.scenario import collect
    load = collect.load
    collect.load = lambda *args, **named: [replace(one, seeds=(3, 7)) for one in load(*args, **named)]
"""


def write(pytester: pytest.Pytester, call: str, tasks: str = "") -> None:
    pytester.makepyfile(
        shop="""
        from celery import Celery
        app = Celery("shop", broker="redis://nowhere.invalid")
        """,
        shop_tasks=tasks or "from shop import app",
    )
    pytester.path.joinpath("a.scenario.yaml").write_text(
        dedent(
            f"""\
            schema: 1
            name: a call
            backends: [celery-sim, celery-eager, anyio]
            tasks:
              pack: {{call: {call}}}
            steps: [{{launch: pack, as: run}}]
            expect: {{never: [{{of: run, status: FAILURE}}]}}
            """
        )
    )


def test_a_file_has_its_own_seeds(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(dedent(SEEDED))
    pytester.path.joinpath("a.scenario.yaml").write_text(STORY)

    result = pytester.runpytest_subprocess("-v", "--taskservice-backend=celery-sim")

    result.stdout.fnmatch_lines(
        ["*a parcel[[]celery-sim-seed=3[]] PASSED*", "*a parcel[[]celery-sim-seed=7[]] PASSED*"]
    )
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("flags", "seeds"), [(["--taskservice-seed=5"], [5]), (["--taskservice-seeds=2"], [0, 1])]
)
def test_seeds_of_the_command_line_win(flags: list[str], seeds: list[int], pytester: pytest.Pytester) -> None:
    pytester.makeconftest(dedent(SEEDED))
    pytester.path.joinpath("a.scenario.yaml").write_text(STORY)

    result = pytester.runpytest_subprocess("-v", "--taskservice-backend=celery-sim", *flags)

    result.stdout.fnmatch_lines([f"*a parcel[[]celery-sim-seed={seed}[]] PASSED*" for seed in seeds])
    result.assert_outcomes(passed=len(seeds))


WORLDS = "--taskservice-backend=celery-sim,celery-eager,anyio"


@pytest.mark.parametrize(
    ("call", "tasks", "told"),
    [
        ("os.system", "", "unknown task 'os.system'; known: *"),
        ("shop_tasks.pack", "", "unknown task 'shop_tasks.pack'; known: *"),
        ("nowhere.pack", "", "unknown task 'nowhere.pack'; known: *"),
        (
            "shop_tasks.pack",
            "1 / 0",
            (
                "cannot import 'shop_tasks' for the task 'shop_tasks.pack': "
                "ZeroDivisionError: division by zero, at *shop_tasks.py:1"
            ),
        ),
        (
            "shop_tasks.pack",
            "import nowhere",
            (
                "cannot import 'shop_tasks' for the task 'shop_tasks.pack': "
                "ModuleNotFoundError: No module named 'nowhere', at *shop_tasks.py:1"
            ),
        ),
        (
            "shop_tasks.pack",
            "raise SystemExit(3)",
            "cannot import 'shop_tasks' for the task 'shop_tasks.pack': SystemExit: 3, at *",
        ),
    ],
)
def test_a_call_of_nothing_fails_with_its_line(
    call: str, tasks: str, told: str, pytester: pytest.Pytester
) -> None:
    write(pytester, call, tasks)

    result = pytester.runpytest_subprocess(WORLDS, "--taskservice-app=shop:app")

    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines([f"a.scenario.yaml:5:*: {told}"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*site-packages*Error*")


def test_only_what_the_app_knows_is_called(pytester: pytest.Pytester) -> None:
    write(
        pytester,
        "shop_tasks.pack",
        """
        from pathlib import Path

        def pack(*args, **kwargs):
            Path("called").touch()

        pack.name = ["unhashable"]
        """,
    )

    result = pytester.runpytest_subprocess(WORLDS, "--taskservice-app=shop:app")

    result.assert_outcomes(failed=4)
    assert not pytester.path.joinpath("called").exists()


def test_a_task_of_the_app_is_played(pytester: pytest.Pytester) -> None:
    write(pytester, "shop_tasks.pack", "from shop import app\n\n@app.task\ndef pack(): return 1\n")

    result = pytester.runpytest_subprocess(WORLDS, "--taskservice-app=shop:app")

    result.assert_outcomes(passed=4)
