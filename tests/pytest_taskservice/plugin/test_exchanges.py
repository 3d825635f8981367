"""An app that is meant for RabbitMQ, with a topic exchange: its messages arrive on Redis too."""

from __future__ import annotations

import pytest

APP = """
from celery import Celery
from kombu import Exchange, Queue

app = Celery("rabbit", broker="{broker}", backend="rpc://")
media = Exchange("media", type="topic")
app.conf.update(
    task_queues=[
        Queue("default", Exchange("default"), routing_key="default"),
        Queue("videos", media, routing_key="media.video.#", queue_arguments={{"x-queue-type": "quorum"}}),
    ],
    task_default_queue="default",
    task_routes={{"rabbit.encode": {{"exchange": "media", "routing_key": "media.video.mp4"}}}},
    broker_transport_options={{"confirm_publish": True}},
    broker_use_ssl={{"ca_certs": "/nowhere"}},
)


@app.task
def encode(name):
    return name + ".mp4"


@app.task
def pass_on(name):
    encode.delay(name)
"""

TESTS = """
from rabbit import encode, pass_on


def test_a_message_reaches_the_queue_its_key_matches(taskservice_app):
    assert encode.delay("film").get(timeout=5) == "film.mp4"


def test_a_task_sends_there_too(taskservice_app, taskservice_driver):
    pass_on.delay("film")
    taskservice_driver.settle(timeout=5)

    assert "rabbit.encode" in {event.task for event in taskservice_driver.log()}
"""


@pytest.mark.parametrize(
    ("broker", "passed"), [("amqp://nowhere.invalid", 2), ("redis://nowhere.invalid", 0)]
)
def test_a_topic_exchange_is_played_as_the_apps_own_broker_would(
    pytester: pytest.Pytester, broker: str, passed: int
) -> None:
    pytester.makepyfile(rabbit=APP.format(broker=broker), test_rabbit=TESTS)
    pytester.makeini("[pytest]\ntaskservice_app = rabbit:app\npythonpath = .\naddopts = -p no:valkey\n")

    result = pytester.runpytest_subprocess("--taskservice-backend=celery")

    result.assert_outcomes(passed=passed, failed=2 - passed)
