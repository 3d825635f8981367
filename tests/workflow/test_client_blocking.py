"""The workflow client for threads, and the public names of workflows."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest

from taskservice import (
    BlockingWorkflowClient,
    CeleryBackend,
    ServiceClosedError,
    Settings,
    WorkflowExpiredError,
    WorkflowFailedError,
    WorkflowOverError,
    WorkflowStatus,
    create_app,
)
from tests.workflow import client_flows as flows

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT = 20.0


@pytest.fixture(params=["asyncio", "trio"])
def client(request: pytest.FixtureRequest) -> Iterator[BlockingWorkflowClient]:
    settings = Settings(backend="anyio", grace=timedelta(0))
    with BlockingWorkflowClient.from_settings(settings, loop=request.param) as opened:
        yield opened


def test_a_run_is_followed_and_answered_from_a_thread(client: BlockingWorkflowClient) -> None:
    seen = []
    run_id = client.start(flows.refund, order="7")
    for event in client.events(run_id):
        seen.append(event.data.get("status", event.kind))
        if event.kind == "question":
            question = client.question(run_id)
            client.send_input(run_id, {"approved": True})

    assert question is not None
    assert question.data == {"order": "7"}
    assert seen == ["WAITING", "RUNNING", "INPUT", "INPUT_OVER", "RUNNING", "progress", "SUCCESS"]
    assert client.result(run_id, timeout=WAIT) == "paid 7"
    assert client.status(run_id).status is WorkflowStatus.SUCCESS
    assert [event.id for event in client.events(run_id, after=5)] == [6, 7]


def test_a_run_is_stopped_while_another_thread_waits_for_it(client: BlockingWorkflowClient) -> None:
    run_id = client.start(flows.anything)
    begun = threading.Event()
    ends: list[Any] = []

    def wait() -> None:
        for event in client.events(run_id):
            begun.set()
            ends.append(event.data["status"])

    waiting = threading.Thread(target=wait)
    waiting.start()
    begun.wait(WAIT)
    client.stop(run_id)
    waiting.join(WAIT)

    assert ends[-1] == "FAILED"
    with pytest.raises(WorkflowFailedError, match="stopped"):
        client.result(run_id)
    with pytest.raises(WorkflowOverError):
        client.send_input(run_id, "late")


def test_an_owner_sees_no_other_owners_runs(client: BlockingWorkflowClient) -> None:
    ann, bob = client.for_owner("ann"), client.for_owner("bob")
    run_id = ann.start(flows.anything)

    assert (ann.owner, client.owner) == ("ann", None)
    assert ann.status(run_id).owner == "ann"
    with pytest.raises(WorkflowExpiredError):
        bob.status(run_id)
    with pytest.raises(WorkflowExpiredError):
        next(bob.events(run_id))


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_an_eager_app_runs_workflows_where_they_are_started(loop: Literal["asyncio", "trio"]) -> None:
    settings = Settings(backend="celery")
    app = create_app(settings)
    app.conf.task_always_eager = True
    backend = CeleryBackend(app, settings=settings)
    with BlockingWorkflowClient(backend, settings=settings, loop=loop) as client:
        run_id = client.start(flows.refund, "7")
        client.send_input(run_id, {"approved": True})

        assert client.result(run_id) == "paid 7"
        assert [event.id for event in client.events(run_id, after=4)] == [5, 6, 7]


def test_a_client_is_for_its_with_block() -> None:
    unopened = BlockingWorkflowClient.from_settings(Settings(backend="anyio"))

    with pytest.raises(ServiceClosedError, match="blocking workflow client"):
        unopened.start(flows.anything)


def test_events_left_early_survive_the_client(client: BlockingWorkflowClient) -> None:
    run_id = client.start(flows.anything)
    events = client.events(run_id)

    assert next(events).id == 1
    client.__exit__(None, None, None)
    with pytest.raises(ServiceClosedError):
        next(events)
    client.__enter__()


IMPORTS = [
    "import taskservice; workflow = taskservice.workflow",
    "from taskservice import workflow",
    "from taskservice.workflow import workflow",
    "import taskservice.workflow.model; from taskservice import WorkflowContext, workflow",
    "from taskservice import workflow; import taskservice.workflow.model as model",
    "from taskservice import *",
]


@pytest.mark.parametrize("imports", IMPORTS)
def test_the_decorator_is_found_however_it_is_imported(imports: str) -> None:
    code = f"{imports}\nprint(workflow('refund', max_steps=3)(lambda ctx: None).deadlines)"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ran.stdout, ran.stderr) == ("{'max_steps': 3}\n", "")


def test_workflows_in_process_load_no_celery_and_no_redis() -> None:
    code = """
import sys
from taskservice import AnyIOBackend, BlockingWorkflowClient, Settings, workflow

@workflow("ask")
def ask(ctx):
    return ctx.ask("what?")

with BlockingWorkflowClient(AnyIOBackend(), settings=Settings(backend="anyio")) as client:
    run_id = client.start(ask)
    for event in client.events(run_id):
        if event.kind == "question":
            client.send_input(run_id, 3)
    assert client.result(run_id) == 3
print([name for name in ("celery", "redis") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ran.stdout, ran.stderr) == ("[]\n", "")
