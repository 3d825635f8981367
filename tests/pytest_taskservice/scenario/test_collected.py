"""Scenario files as pytest collects and plays them, in a process of their own."""

from __future__ import annotations

from textwrap import dedent

import pytest

from pytest_taskservice.report.record import read

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


@pytest.mark.parametrize(("seeds", "failed"), [("3", 0), ("1", 1)])
def test_what_holds_with_some_seed_is_not_asked_of_the_one_play_of_a_world_without_seeds(
    seeds: str, failed: int, pytester: pytest.Pytester
) -> None:
    told = STORY.replace("[celery-sim]", f"[celery-eager]\nseeds: {seeds}")
    never = "{sometimes: [{of: run, status: FAILURE}], eventually:"
    pytester.path.joinpath("a.scenario.yaml").write_text(told.replace("{eventually:", never))

    result = pytester.runpytest_subprocess("--taskservice-backend=celery-eager")

    result.assert_outcomes(passed=1, failed=failed)
    said = [line for line in result.outlines if line.startswith("taskservice: sometimes was not judged in 1")]
    assert len(said) == 1 - failed


WORLDS = "--taskservice-backend=celery-sim,celery-eager,anyio"
APP = """
from celery import Celery
app = Celery("shop", broker="redis://nowhere.invalid")
"""
PACK = """
from pathlib import Path
from shop import app

@app.task
def pack():
    return 1

def no_task(*args, **kwargs):
    Path("called").touch()

no_task.name = ["unhashable"]
"""
DOCUMENT = """\
schema: 1
name: {name}
backends: [celery-sim, celery-eager, anyio]
tasks:
  pack: {{call: {call}}}
steps: [{{launch: pack, as: run}}]
expect: {{never: [{{of: run, status: FAILURE}}]}}
"""


def play_calls(pytester: pytest.Pytester, *calls: str) -> pytest.RunResult:
    pytester.makepyfile(
        shop=APP,
        packs=PACK,
        broken="1 / 0",
        lacking="import nowhere",
        ending="raise SystemExit(3)",
        going="import os; os._exit(0)",
    )
    documents = [DOCUMENT.format(name=f"call {number}", call=call) for number, call in enumerate(calls)]
    pytester.path.joinpath("a.scenario.yaml").write_text("---\n".join(documents))
    return pytester.runpytest_subprocess(WORLDS, "--taskservice-app=shop:app")


def test_a_call_of_nothing_fails_with_its_line_and_cause(pytester: pytest.Pytester) -> None:
    result = play_calls(
        pytester,
        "os.system",
        "packs.gone",
        "packs.no_task",
        "nowhere.pack",
        "broken.pack",
        "lacking.pack",
        "ending.pack",
        "going.pack",
    )

    result.assert_outcomes(failed=32)
    result.stdout.fnmatch_lines_random(
        [
            "a.scenario.yaml:5:*: unknown task 'os.system'; known: *",
            "a.scenario.yaml:13:*: unknown task 'packs.gone'; did you mean 'packs.pack'? known: *",
            "a.scenario.yaml:21:*: unknown task 'packs.no_task'; *",
            "a.scenario.yaml:29:*: unknown task 'nowhere.pack'; *",
            (
                "a.scenario.yaml:37:*: cannot import 'broken' for the task 'broken.pack': "
                "ZeroDivisionError: division by zero, at *broken.py:1"
            ),
            (
                "a.scenario.yaml:45:*: cannot import 'lacking' for the task 'lacking.pack': "
                "ModuleNotFoundError: No module named 'nowhere', at *lacking.py:1"
            ),
            "a.scenario.yaml:53:*: cannot import 'ending' for the task 'ending.pack': SystemExit: 3, at *",
            "a.scenario.yaml:61:*: cannot import 'going' for the task 'going.pack': SystemExit: 0, at *",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    assert not pytester.path.joinpath("called").exists()


RUDE = """
import os
import sys
from shop import app

class Bare(BaseException):
    pass

class Speechless(Exception):
    def __str__(self):
        raise KeyError("no words")
    __repr__ = __str__

@app.task
def leaves():
    sys.exit(4)

@app.task
def goes():
    os._exit(0)

@app.task
def bare():
    raise Bare("nothing on")

@app.task
def interrupts():
    raise KeyboardInterrupt

@app.task
def speechless():
    raise Speechless("x")
"""


def play_rude(pytester: pytest.Pytester, worlds: str, error: str, *names: str) -> pytest.RunResult:
    pytester.makepyfile(shop=APP, rude=RUDE)
    documents = [
        DOCUMENT.format(name=name, call=f"rude.{name}")
        .replace("[celery-sim, celery-eager, anyio]", f"[{worlds}]")
        .replace("{never: [{", f"{{eventually: [{{within: 9s, error: '{error}', ")
        for name in names
    ]
    pytester.path.joinpath("a.scenario.yaml").write_text("---\n".join(documents))
    return pytester.runpytest_subprocess(
        "-rs", f"--taskservice-backend={worlds}", "--taskservice-app=shop:app"
    )


@pytest.mark.parametrize(
    ("name", "error"),
    [("leaves", "SystemExit: 4"), ("bare", "Bare: nothing on"), ("interrupts", "KeyboardInterrupt")],
)
def test_a_body_that_raises_no_exception_ends_its_own_run_and_not_the_event_loop(
    name: str, error: str, pytester: pytest.Pytester
) -> None:
    result = play_rude(pytester, "anyio", error, name)

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(("world", "error"), [("celery-sim", "WorkerLostError"), ("anyio", "SystemExit: 0")])
def test_a_body_that_ends_its_process_ends_its_own_run_and_not_the_session(
    world: str, error: str, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile("import os\ndef test_others_mean_it(taskservice_app):\n    os._exit(7)")

    story = play_rude(pytester, world, error, "goes")

    story.stdout.fnmatch_lines(["*a.scenario.yaml .*"])
    assert story.ret == 7


def test_eager_mode_does_not_show_what_would_end_a_worker(pytester: pytest.Pytester) -> None:
    result = play_rude(pytester, "celery-eager", "Bare", "leaves", "bare", "goes")

    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines_random(
        [
            "*a.scenario.yaml:6:*: celery-eager cannot: SystemExit (a task raised SystemExit, which *",
            "*a.scenario.yaml:14:*: celery-eager cannot: Bare (a task raised Bare, which *",
        ]
    )


def test_a_body_that_never_ends_fails_its_story_in_eager_mode(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "from pytest_taskservice.drivers import celery_eager\ncelery_eager.BODY_SECONDS = 0.5"
    )
    endless = "from shop import app\nfrom threading import Event\n@app.task\ndef waits():\n    Event().wait()"
    pytester.makepyfile(shop=APP, endless=endless)
    told = DOCUMENT.format(name="endless", call="endless.waits")
    after = told.replace("endless", "after").replace("after.waits", "packs.pack")
    pytester.makepyfile(packs=PACK)
    pytester.path.joinpath("a.scenario.yaml").write_text(told + "---\n" + after)

    result = pytester.runpytest_subprocess("--taskservice-backend=celery-eager", "--taskservice-app=shop:app")

    result.assert_outcomes(failed=1, passed=1)
    place = "it stands at *endless.py:5"
    result.stdout.fnmatch_lines([f"a.scenario.yaml:6:9: a body is not over after 0.5 s, which *; {place}"])


RUDE_FLOWS = """
import os
from taskservice import workflow
from rude import Bare, Speechless

@workflow("goes")
def goes(ctx):
    os._exit(0)

@workflow("bare")
def bare(ctx):
    raise Bare("nothing on")

@workflow("speechless")
def speechless(ctx):
    raise Speechless("x")
"""
FLOW = """\
schema: 1
name: {name}
workflows: {{flow: {{call: flows.{name}}}}}
steps: [{{start: flow, as: run}}]
expect: {{eventually: [{{within: 1s, of: run, {wanted}}}]}}
invariants: {{one_final_state: off}}
"""


def test_a_rude_workflow_ends_neither_the_session_nor_its_event_loop(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(shop=APP, rude=RUDE, flows=RUDE_FLOWS)
    wanted = {
        "goes": "status: RUNNING",
        "bare": "status: RUNNING",
        "speechless": "error: 'Speechless: its message cannot be shown: KeyError'",
    }
    documents = [FLOW.format(name=name, wanted=words) for name, words in wanted.items()]
    pytester.path.joinpath("a.scenario.yaml").write_text("---\n".join(documents))

    result = pytester.runpytest_subprocess(WORLDS, "--taskservice-app=shop:app")

    # Eager mode shows the last one only.
    result.assert_outcomes(passed=10, skipped=2)


@pytest.mark.parametrize("world", ["celery-sim", "celery-eager", "anyio", "celery"])
def test_an_error_that_cannot_be_shown_is_told_by_its_name(world: str, pytester: pytest.Pytester) -> None:
    story = play_rude(pytester, world, "Speechless: its message cannot be shown: KeyError", "speechless")

    story.assert_outcomes(passed=2 if world == "anyio" else 1)


STRICT = """
import pytest

def pytest_configure(config):
    config.addinivalue_line("markers", "within(seconds, why=None): as plugins have it")

def pytest_runtest_setup(item):
    if (mark := item.get_closest_marker("within")) and not mark.args:
        raise TypeError("within takes seconds")
    assert [mark.name for mark in item.iter_markers("mild")] == ["mild"]
"""


def test_a_tag_is_no_mark_of_others_that_wants_arguments(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(STRICT)
    told = STORY.replace("backends:", "tags: [within, mild, xfail, skipif]\nbackends:")
    pytester.path.joinpath("a.scenario.yaml").write_text(told + "---\n" + STORY.replace("parcel", "letter"))

    result = pytester.runpytest_subprocess("--taskservice-backend=celery-sim", "-m", "within and xfail")

    result.assert_outcomes(passed=1, deselected=1)


def test_a_run_that_can_never_begin_is_not_for_the_task_service(pytester: pytest.Pytester) -> None:
    told = STORY.replace("[celery-sim]", "[celery-sim, anyio]").replace("SUCCESS", "REVOKED")
    never = told.replace("launch: pack,", "launch: pack, countdown: 2s, expires: 1s,")
    pytester.path.joinpath("a.scenario.yaml").write_text(never)

    result = pytester.runpytest_subprocess("-rs", "--taskservice-backend=celery-sim,anyio")

    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*5:*anyio cannot: expires (the task service takes no run that expires *"])


def test_what_a_task_says_does_not_act_on_the_terminal_and_can_be_written_down(
    pytester: pytest.Pytester,
) -> None:
    loud = 'from shop import app\n@app.task\ndef loud(): raise ValueError("\\x1b[2J\\u202egone \\ud800")'
    pytester.makepyfile(shop=APP, loud=loud)
    story = DOCUMENT.format(name="loud", call="loud.loud")
    pytester.path.joinpath("a.scenario.yaml").write_text(story)

    flags = ["--taskservice-app=shop:app", "--taskservice-report=reports", "--show-capture=no"]
    result = pytester.runpytest_subprocess("--taskservice-backend=celery-sim", *flags)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([r"    got * error ValueError: \x1b[[]2J\u202egone \ud800, at * s"])
    assert "\x1b[2J" not in result.stdout.str()
    [record] = pytester.path.joinpath("reports").glob("*.json")
    assert read(record).outcomes["run"][0].message == "\x1b[2J\u202egone \\ud800"


def test_a_real_worker_knows_tasks_of_a_module_that_only_the_story_names(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(shop=APP, packs=PACK)
    story = DOCUMENT.format(name="a parcel", call="packs.pack")
    pytester.path.joinpath("a.scenario.yaml").write_text(
        story.replace("[celery-sim, ", "[celery, celery-sim, ")
    )

    result = pytester.runpytest_subprocess("--taskservice-backend=celery", "--taskservice-app=shop:app")

    result.assert_outcomes(passed=1)


def test_a_module_that_never_ends_its_import_fails_its_stories_alone(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from pytest_taskservice.drivers import called\ncalled.IMPORT_SECONDS = 0.5")
    pytester.makepyfile(forever="try:\n    while True: pass\nexcept Exception:\n    pass")

    result = play_calls(pytester, "forever.pack", "packs.pack")

    result.assert_outcomes(passed=4, failed=4)
    told = (
        "a.scenario.yaml:5:*: cannot import 'forever' for the task 'forever.pack': "
        "TimeoutError: it takes more than 0.5 s, at *forever.py:2"
    )
    result.stdout.fnmatch_lines([told] * 4)


def test_a_task_of_the_app_is_played(pytester: pytest.Pytester) -> None:
    play_calls(pytester, "packs.pack").assert_outcomes(passed=4)
