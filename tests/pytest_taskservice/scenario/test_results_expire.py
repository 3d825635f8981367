"""Results that are no longer kept when a story is judged: nothing is wrong with a run that has none."""

from __future__ import annotations

import pytest
from celery import Celery

from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.scenario.load import load_text
from tests.pytest_taskservice.scenario.stories import play, told

POLLING = """
schema: 1
name: polling
config: {{celery: {{result_expires: {expires}}}}}
tasks: {{poll: {{}}}}
beat: {{often: {{launch: poll, every: 1s}}}}
steps: [{{advance: 1m}}]
expect: {{never: [{{of: often, status: FAILURE}}]}}
"""


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
    (scenario,) = load_text(POLLING.format(expires=expires), "polling.scenario.yaml")
    app = Celery("stories", broker="redis://nowhere.invalid", set_as_current=False)

    verdict = play(scenario, CelerySimDriver(options=SimulatorOptions()), app)

    assert told(verdict) == []
