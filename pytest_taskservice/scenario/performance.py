"""Doing the steps of a story, each at its instant, and keeping what came of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.base import CapabilityError
from pytest_taskservice.errors import HarnessError, ScenarioError
from pytest_taskservice.scenario.acts import (
    DELIVERY_FAULTS,
    Advance,
    Command,
    Continue,
    Disconnect,
    FaultCall,
    Follow,
    Heal,
    Inject,
    Input,
    Launch,
    Mark,
    Reconnect,
    Revoke,
    Start,
    Step,
    Stop,
    Together,
    Wait,
)
from pytest_taskservice.scenario.clients import Client
from pytest_taskservice.scenario.model import FINAL_STATUSES
from pytest_taskservice.scenario.record import (
    CommandResult,
    FaultTale,
    Launched,
    Mismatch,
    Started,
    labels,
)
from pytest_taskservice.scenario.stage import call_of, calls_of_canvas
from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from pytest_taskservice.drivers.base import Injection, StoryDriver, WorkflowControl
    from pytest_taskservice.scenario.model import Scenario
    from pytest_taskservice.scenario.pace import Pace

__all__ = ["WORKFLOW_FINAL", "Performance"]

WORKFLOW_FINAL = frozenset({"SUCCESS", "FAILED"})
"""Where a workflow run is over."""
_Act = Callable[[], None]


class _Overdue(Exception):  # noqa: N818 - a turn of the story, caught where it ends
    """A step waited in vain; the rest of the story is not played."""


class Performance:
    """What is done in one play, and all that was captured by it."""

    def __init__(self, scenario: Scenario, driver: StoryDriver, pace: Pace) -> None:
        self._scenario = scenario
        self._driver = driver
        self._pace = pace
        self._injections: dict[str, list[tuple[float, FaultCall, Injection]]] = {}
        self._clients: dict[str, list[Client]] = {}
        self._canvases = 0
        self.runs: dict[str, tuple[str, ...]] = {}
        self.launched: dict[str, Launched] = {}
        self.workflows: dict[str, tuple[str, ...]] = {}
        self.started: dict[str, Started] = {}
        self.commands: dict[str, tuple[CommandResult, ...]] = {}
        self.found: list[Mismatch] = []

    def perform(self, steps: tuple[Step, ...]) -> None:
        """Do the steps, each at its instant."""
        ended = self._pace.elapsed()
        try:
            for step in steps:
                self._pace.wait_until(step.at if step.at is not None else ended + step.after)
                self._do(step)
                ended = self._pace.elapsed()
        except _Overdue:
            return

    def inject(self, fault: FaultCall, name: str | None = None) -> None:
        """Break something."""
        at = self._pace.log_time()
        injection = self._driver.faults().inject(fault)
        self._injections.setdefault(name or "", []).append((at, fault, injection))

    def heal(self) -> None:
        """End every fault, if there was one."""
        if self._injections:
            self._driver.faults().heal()

    def heal_lasting(self) -> None:
        """End every fault but those that lie in wait, a few times, for a run that may be under way."""
        for found in self._injections.values():
            for _, fault, injection in found:
                if not _lies_in_wait(fault):
                    injection.heal()

    def read_clients(self) -> None:
        """Have every client that is connected read what there is."""
        for client in self._every_client():
            client.read()

    def tales(self) -> dict[str, tuple[Any, ...]]:
        """Return what each client read, by name."""
        return {name: tuple(each.tale() for each in found) for name, found in self._clients.items()}

    def fault_tales(self) -> dict[str, tuple[FaultTale, ...]]:
        """Return what became of each fault, by name; those that bear none are under the empty one."""
        return {
            name: tuple(
                FaultTale(at=at, kind=fault.kind, struck_at=injection.struck_at)
                for at, fault, injection in found
            )
            for name, found in self._injections.items()
        }

    def workflows_over(self) -> bool:
        """Return whether no workflow run can have news any more."""
        control = self._driver.workflows() if self.started else None
        endings = (control.outcome(run) for run in self.started) if control else ()
        return all(ending is None or ending.status in WORKFLOW_FINAL for ending in endings)

    # Steps.

    def _do(self, step: Step) -> None:
        try:
            self._do_it(step)
        except CapabilityError as error:
            error.place = error.place or str(step.mark)
            raise
        except ScenarioError:
            raise
        except HarnessError as error:
            raise ScenarioError(f"{step.mark}: {error}") from error

    def _do_it(self, step: Step) -> None:
        match step:
            case Wait(duration=float(duration)) | Advance(duration=duration):
                self._pace.wait_until(self._pace.elapsed() + duration)
            case Wait():
                self._wait_for_runs(step)
            case Follow():
                self._follow(step)
            case Disconnect(client=name) | Reconnect(client=name):
                for client in self._clients.get(name, ()):
                    client.connect() if isinstance(step, Reconnect) else client.disconnect()
            case Inject():
                self.inject(step.fault, step.name)
            case Heal():
                self._heal(step)
            case Together(steps=commands):
                self._do_at_once(commands)
            case _:
                asked = _Asked(step, self._acts_of(step), self._pace.log_time())
                asked.act()
                self._keep(asked)

    def _heal(self, step: Heal) -> None:
        if not step.names:
            self.heal()
        for name in step.names:
            for _, _, injection in self._injections.get(name, ()):
                injection.heal()

    def _follow(self, step: Follow) -> None:
        control = self._driver.workflows()
        for run in self.workflows.get(step.run, ()):
            client = Client(run, control, self._pace.log_time)
            client.connect()
            self._clients.setdefault(step.name, []).append(client)

    def _do_at_once(self, commands: tuple[Command, ...]) -> None:
        asked = [_Asked(command, self._acts_of(command), self._pace.log_time()) for command in commands]
        self._driver.at_once([each.act for each in asked])
        for each in asked:
            # Of those that race, all but one may be told that they come too late.
            self._keep(each, may_lose=isinstance(each.step, _ANSWERED))

    # Commands.

    def _acts_of(self, step: Command) -> list[Callable[[], Any]]:
        """Return what ``step`` asks for, one act for each run it is about."""
        match step:
            case Launch():
                return [self._launch_of(step)] * step.count
            case Start():
                control = self._driver.workflows()
                return [partial(control.start, step.workflow, step.args, step.kwargs)] * step.count
            case Revoke():
                runs = self.runs.get(step.name, ())
                return [partial(self._driver.revoke, run) for run in runs]
        return [self._act_on(step, run) for run in self.workflows.get(step.run, ())]

    def _launch_of(self, step: Launch) -> Callable[[], Any]:
        canvas = self._scenario.canvases.get(step.task)
        if canvas is None:
            call = call_of(self._scenario.tasks[step.task], self._scenario, step)
            return partial(self._driver.launch, call)
        members, body = calls_of_canvas(canvas, self._scenario, step)
        return partial(self._driver.launch_canvas, canvas.kind, members, body)

    def _act_on(self, step: Input | Continue | Stop, run: str) -> Callable[[], Any]:
        control = self._driver.workflows()
        match step:
            case Input():
                return partial(_answer, control, run, step)
            case Continue():
                return partial(control.resume, run)
        return partial(control.stop, run)

    def _keep(self, asked: _Asked, *, may_lose: bool = False) -> None:
        """Capture what came of a command; one that ``may_lose`` is refused without being at fault."""
        if asked.broken is not None:
            raise asked.broken
        step = asked.step
        match step:
            case Launch():
                self._keep_runs(step, asked.given, asked.at)
            case Start(workflow=workflow, name=name):
                started = Started(at=asked.at, workflow=self._scenario.workflows[workflow])
                self.started |= dict.fromkeys(asked.given, started)
                if name is not None:
                    self.workflows[name] = (*self.workflows.get(name, ()), *asked.given)
        name = "" if isinstance(step, Revoke) else step.name or ""
        results = [result for result in asked.results if not result.taken or isinstance(step, _ANSWERED)]
        if results and name:
            self.commands[name] = (*self.commands.get(name, ()), *results)
        if not may_lose and not self._expects_answer(name):
            self.found += [_refused(step, result, self._pace.start) for result in results if not result.taken]

    def _keep_runs(self, step: Launch, given: list[Any], at: float) -> None:
        canvas = self._scenario.canvases.get(step.task)
        task = self._scenario.tasks.get(step.task)
        captured: dict[str, list[str]] = {"": [], ".members": []}
        for found in given:
            if canvas is None:
                facts = Launched(
                    at=at,
                    countdown=step.countdown or 0.0,
                    queue=(task and task.queue) or "",
                    behaviour=task.behaviour if task else None,
                )
                ends, members = (found,), ()
            else:
                self._canvases += 1
                facts = Launched(at=at, canvas=self._canvases)
                ends, members = found.ends, found.members
            self.launched |= dict.fromkeys((*members, *ends), facts)
            captured[""] += ends
            captured[".members"] += members
        if step.name is None:
            return
        for suffix, runs in captured.items():
            name = f"{step.name}{suffix}"
            if runs:
                self.runs[name] = (*self.runs.get(name, ()), *runs)

    def _expects_answer(self, name: str) -> bool:
        claims = (claim for claim in self._scenario.expect if claim.of == name)
        return any(not {"taken", "error"}.isdisjoint(claim.wanted) for claim in claims)

    # Waiting.

    def _wait_for_runs(self, step: Wait) -> None:
        until = self._pace.elapsed() + step.within
        for name in step.runs:
            for label, run in labels(name, self.runs.get(name) or self.workflows.get(name, ())):
                if not self._pace.wait_for(partial(self._is_over, run), until=until):
                    self.found.append(self._overdue(step, label, self._status_of(run)))
                    raise _Overdue

    def _is_over(self, run: str) -> bool:
        return self._status_of(run) in (WORKFLOW_FINAL if run in self.started else FINAL_STATUSES)

    def _status_of(self, run: str) -> str:
        if run not in self.started:
            return self._driver.outcome(run).status
        ending = self._driver.workflows().outcome(run)
        return "FAILED" if ending is None else ending.status

    def _overdue(self, step: Wait, label: str, status: str) -> Mismatch:
        return Mismatch(
            mark=step.mark,
            expected=f"over within {format_duration(step.within)} of waiting",
            got=f"status {status}; the steps below were not played",
            run=label,
            at=self._pace.elapsed(),
        )

    def _every_client(self) -> list[Client]:
        return [client for found in self._clients.values() for client in found]


_ANSWERED = Input | Continue | Stop
"""Commands whose being taken is told too; that of a launch or a start is its runs."""


class _Asked:
    """One command: what it asked for, and what came of that. Its act raises nothing."""

    def __init__(self, step: Command, acts: list[Callable[[], Any]], at: float) -> None:
        self.step = step
        self.at = at
        self.given: list[Any] = []
        self.results: list[CommandResult] = []
        self.broken: HarnessError | None = None
        self._acts = acts

    def act(self) -> None:
        """Ask."""
        for act in self._acts:
            try:
                self.given.append(act())
            except HarnessError as error:
                self.broken = error
                return
            except Exception as error:  # noqa: BLE001 - what the system under test says to a command
                code = getattr(error, "code", None)
                word = code if isinstance(code, str) else type(error).__name__
                self.results.append(CommandResult(at=self.at, error=word, message=str(error)))
            else:
                self.results.append(CommandResult(at=self.at))


def _answer(control: WorkflowControl, run: str, step: Input) -> None:
    question = step.question
    if question is not None:
        # Its id is drawn as it is asked; no file can know it.
        told = (event.data for event in control.events(run) if event.kind == "question")
        asked = [data["id"] for data in told if data.get("prompt") == question]
        question = asked[-1] if asked else question
    control.answer(run, step.value, question=question)


def _lies_in_wait(fault: FaultCall) -> bool:
    waits = bool(fault.when) or fault.kind in DELIVERY_FAULTS
    return waits and fault.times is not None


def _refused(step: Command, result: CommandResult, start: float) -> Mismatch:
    text = f": {result.message}" if result.message and result.message != result.error else ""
    mark: Mark = step.mark
    return Mismatch(
        mark=mark,
        expected="taken",
        got=f"refused, {result.error}{text}"[:300],
        run=getattr(step, "name", None) or "",
        at=result.at - start,
    )
