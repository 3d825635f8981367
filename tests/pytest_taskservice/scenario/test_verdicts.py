"""When a story is judged: what is waited for, and what is no longer there by then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from pytest_taskservice.drivers.celery_eager import CeleryEagerDriver
from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario.load import load_text
from tests.pytest_taskservice.scenario.stories import play, told

if TYPE_CHECKING:
    from pytest_taskservice.scenario.engine import Verdict

POLLING = """
schema: 1
name: polling
config: {{celery: {{result_expires: {expires}}}}}
tasks: {{poll: {{}}}}
beat: {{often: {{launch: poll, every: 1s}}}}
steps: [{{advance: 1m}}]
expect: {{never: [{{of: often, status: FAILURE}}]}}
"""


RENDERED_TWICE = """
schema: 1
name: rendered twice
config: {celery: {task_acks_late: true, visibility_timeout: 10m}}
workers: {count: 2, concurrency: 1}
tasks: {render: {runs_for: 15m}}
steps: [{launch: render, as: run}]
expect:
  eventually: [{within: 16m, of: run, status: SUCCESS}]
invariants: {final_is_final: off}
"""


MANY = """
schema: 1
name: many
tasks: {quick: {}}
steps: [{launch: quick, count: 5100, as: run}]
expect:
  eventually: [{within: 1m, of: run, status: SUCCESS}]
"""


def verdict_of(text: str, driver: Any = None) -> Verdict:
    """How a scenario is judged in the simulator, or by another driver."""
    (scenario,) = load_text(text, "f.yaml")
    app = Celery("stories", broker="redis://nowhere.invalid", set_as_current=False)
    return play(scenario, driver or CelerySimDriver(options=SimulatorOptions()), app)


@pytest.mark.parametrize(
    "expires",
    [
        "5s",
        # Celery rounds down to whole seconds.
        "4.99s",
        "0.5s",
        # Some results go while others are looked up, which takes its time.
        *(f"{millis}ms" for millis in range(5000, 5060, 10)),
    ],
)
def test_a_run_whose_result_is_no_longer_kept_breaks_nothing(expires: str) -> None:
    assert told(verdict_of(POLLING.format(expires=expires))) == []


def test_an_execution_that_nothing_but_a_short_visibility_timeout_began_is_waited_for() -> None:
    verdict = verdict_of(RENDERED_TWICE)

    assert told(verdict) == []
    assert [event.kind for event in verdict.log].count(EventKind.SUCCEEDED) == 2


def test_eager_mode_keeps_all_results_of_a_story() -> None:
    assert told(verdict_of(MANY, CeleryEagerDriver())) == []
