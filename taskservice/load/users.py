"""Locust users: tasks of the service, workflows, anybody's Celery task, a scenario's story.

Each *plays* its part once for each run that is due. In the open model runs are due by the clock, and every
play has a greenlet of its own; in the closed one a user waits for its play. A play goes on when its user is
stopped: what was sent has an end, and that is waited for.

Subclass them for what is special: override `play`, and call `launch` in it.
"""

from __future__ import annotations

import itertools
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import gevent
from locust import User, task

from taskservice.load.arrivals import arrivals
from taskservice.load.calls import Call, How
from taskservice.load.hooks import node

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from locust.env import Environment

    from taskservice.load.hooks import Node
    from taskservice.load.ledger import Flight
    from taskservice.load.plan import LoadPlan

__all__ = ["CeleryUser", "LoadUser", "StoryUser", "TaskUser", "WorkflowUser"]

WORKERS_APART: Final = 1_000_000
"""Sources of one Locust worker are numbered from its index times this, so that no two are the same."""
_sources = itertools.count()


class LoadUser(User):
    """What all users share: when they play."""

    abstract = True
    how: How | None = None
    """How it sends by the engine, if it does."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.node: Node = node(environment)
        self.plan: LoadPlan = self.node.plan
        self.call: Call = self.plan.call_by(self.how or "task")

    def play(self, due: float) -> None:
        """Do once what this user does; ``due`` is when it should have begun, by the monotonic clock."""
        self.launch(due=due).wait()

    def launch(
        self,
        name: str = "",
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        call: Call | None = None,
        due: float | None = None,
        **options: Any,
    ) -> Flight:
        """Send a task, by its name or as a `Call`, and return its flight at once; ``wait`` lets others run.

        Without a name it is what the load run was told to send.
        """
        if name:
            call = Call(
                name=name, how=self.call.how, args=tuple(args), kwargs=dict(kwargs or {}), options=options
            )
        call = call or self.call
        now = monotonic()
        flight = self.node.ledger.depart(call.name, now if due is None else due, forgotten=call.forget)
        link = self.node.link
        if link is None or not link.alive:
            self.node.ledger.refused(flight, flight.started, monotonic(), "the load engine is gone")
        else:
            link.go(flight.number, call)
        return flight

    @task
    def keep_playing(self) -> None:
        """Play once, or in the open model until this user is stopped."""
        if self.plan.open:
            self._play_by_the_clock(self.plan.source_rate)
        elif self.plan.pace is not None:
            self._play_by_the_clock(1 / self.plan.pace, patient=True)
        else:
            gevent.spawn(self.play, monotonic()).join()

    def _play_by_the_clock(self, rate: float, *, patient: bool = False) -> None:
        index = getattr(self.environment.runner, "worker_index", 0)
        source = index * WORKERS_APART + next(_sources)
        kind = "constant" if patient else self.plan.arrivals
        start = monotonic()
        for due in arrivals(rate, kind, seed=self.plan.seed, source=source):
            gevent.sleep(max(0.0, start + due - monotonic()))
            playing = gevent.spawn(self.play, start + due)
            if patient:
                playing.join()


class TaskUser(LoadUser):
    """A task of the service, launched and awaited by `TaskService`."""

    how = "task"


class CeleryUser(LoadUser):
    """Anybody's Celery task by its name, sent by ``app.send_task`` as their own code sends it."""

    how = "celery"


class WorkflowUser(LoadUser):
    """A workflow: started, its events read, its questions answered, its result taken."""

    how = "workflow"


class StoryUser(LoadUser):
    """The steps of a scenario, one after another, each at its time."""

    def play(self, due: float) -> None:
        """Take every step once, and wait for all that was launched."""
        story = self.plan.story
        if story is None:
            raise RuntimeError("StoryUser needs a story: taskservice load --scenario FILE")

        flown: dict[str, list[Flight]] = {}
        everything: list[Flight] = []
        now = due
        for move in story.moves:
            now = now + move.after if move.at is None else max(now, due + move.at)
            gevent.sleep(max(0.0, now - monotonic()))
            if move.call is not None:
                made = [self.launch(call=move.call, due=now) for _ in range(move.count)]
                everything += made
                if move.name:
                    flown[move.name] = made
            for flight in itertools.chain.from_iterable(flown.get(name, ()) for name in move.awaits):
                flight.wait()
            # What follows a wait is due when that is over, however late.
            now = max(now, monotonic()) if move.awaits else now + move.pause
        gevent.sleep(max(0.0, now - monotonic()))
        for flight in everything:
            flight.wait()
