from __future__ import annotations

import pytest

from pytest_taskservice.scenario.behaviour import Behaviour, Retry
from pytest_taskservice.scenario.load import load_text
from pytest_taskservice.scenario.model import Config
from pytest_taskservice.scenario.needs import needs
from pytest_taskservice.scenario.story import behaviour_length, story_length


def scenario_of(tasks: str, *steps: str, config: str = "{}") -> str:
    lines = "\n".join(f"  - {{{step}}}" for step in steps)
    return (
        f"schema: 1\nname: x\nconfig: {config}\ntasks: {{{tasks}}}\nsteps:\n{lines}\n"
        "expect: {never: [{of: run, status: REJECTED}]}\n"
    )


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        (scenario_of("a: {}", "launch: a, as: run"), []),
        (
            scenario_of("a: {}", "launch: a, as: run, countdown: 2s"),
            [("eta", "the step in line 6 has a countdown of 2s")],
        ),
        (
            scenario_of("a: {}", "launch: a, as: run, expires: 1m"),
            [("expires", "the step in line 6 expires after 1m")],
        ),
        (
            scenario_of("a: {}", "launch: a, as: run", config="{task_time_limit: 1s}"),
            [("time limits", "config sets task_time_limit")],
        ),
        (
            scenario_of("a: {priority: 3}", "launch: a, as: run"),
            [("priorities", "task 'a' has priority 3")],
        ),
        (
            scenario_of("a: {}", "launch: a, as: run", "revoke: run"),
            [("revoke", "the step in line 7 revokes 'run'")],
        ),
        (
            scenario_of("a: {fails_times: 1, retry: {max_attempts: 2, delay: 50ms}}", "launch: a, as: run"),
            [("back-off", "task 'a' waits 50ms before it is tried again")],
        ),
        (
            scenario_of("a: {fails_times: 1, retry: {max_attempts: 2}}", "launch: a, as: run"),
            [],
        ),
        (
            scenario_of("a: {runs_for: 2s}", "launch: a, as: run", "launch: a, at: 1s"),
            [("concurrency", "the step in line 7 happens while 'a' is under way")],
        ),
        (
            scenario_of("a: {runs_for: 2s}", "launch: a, as: run", "wait: 1s", "launch: a"),
            [("concurrency", "the step in line 8 happens while 'a' is under way")],
        ),
        (scenario_of("a: {runs_for: 2s}", "launch: a, as: run", "launch: a"), []),
        (scenario_of("a: {runs_for: 2s}", "launch: a, as: run", "launch: a, at: 2s"), []),
        (scenario_of("a: {runs_for: 2s}", "launch: a, as: run", "wait: run", "launch: a"), []),
    ],
)
def test_a_world_needs_what_the_story_shows(text: str, needed: list[tuple[str, str]]) -> None:
    (scenario,) = load_text(text, "f.yaml")

    assert needs(scenario) == needed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (scenario_of("a: {}", "launch: a, as: run"), 0.0),
        (scenario_of("a: {runs_for: 2s}", "launch: a, as: run, at: 1s"), 3.0),
        (scenario_of("a: {runs_for: 2s}", "launch: a, as: run, countdown: 1m"), 62.0),
        (scenario_of("a: {runs_for: 2s}", "launch: a, as: run", "wait: run", "wait: 1s"), 3.0),
        (scenario_of("a: {runs_for: 1h}", "launch: a, as: run", "wait: 1s", "revoke: run"), 1.0),
        (
            scenario_of("a: {runs_for: 1h}", "launch: a, as: run, countdown: 2s, expires: 1s"),
            1.0,
        ),
        (
            scenario_of("a: {runs_for: 1h}", "launch: a, as: run", config="{task_time_limit: 5s}"),
            5.0,
        ),
    ],
)
def test_a_story_lasts_until_its_last_run_is_over(text: str, seconds: float) -> None:
    (scenario,) = load_text(text, "f.yaml")

    assert story_length(scenario) == seconds


@pytest.mark.parametrize(
    ("behaviour", "seconds"),
    [
        (Behaviour(runs_for=60), 5.0),
        (Behaviour(runs_for=60, ignores_soft_limit=True), 8.0),
        (Behaviour(runs_for=1, fails_times=1), 1.0),
        (Behaviour(runs_for=1, fails_times=2, retry=Retry(max_attempts=3, delay=4)), 11.0),
        (Behaviour(runs_for=1, fails_with="x", retry=Retry(max_attempts=2, delay=4)), 6.0),
    ],
)
def test_a_behaviour_lasts_for_its_attempts_and_delays(behaviour: Behaviour, seconds: float) -> None:
    config = Config(task_soft_time_limit=5.0, task_time_limit=8.0)

    assert behaviour_length(behaviour, config) == seconds
