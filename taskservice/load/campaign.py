"""From what was asked for to a report: raise the stack, run the load or search its limit, judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from taskservice.errors import ConfigurationError
from taskservice.load.capacity import Trial, find_limit
from taskservice.load.figures import all_figures
from taskservice.load.guard import Children
from taskservice.load.plan import KINDS, WAYS, LoadPlan
from taskservice.load.quantities import show_count
from taskservice.load.report import Report, make_report
from taskservice.load.stack import Stack, StackRequest, raise_stack
from taskservice.load.supervise import Loading, Ran, require_locust, run_load, run_web

if TYPE_CHECKING:
    from taskservice.load.gates import Gate

__all__ = ["Campaign", "Exit", "exit_code", "run_campaign", "run_page"]

ACHIEVED: Final = 0.95
"""Which share of what is due a trial must carry: what is less has a backlog that grows."""

Tell = Callable[[str], object]


class Exit:
    """What the command ends with."""

    OK = 0
    GATE = 1
    """A gate failed, or a run was lost."""
    USAGE = 2
    STACK = 3
    """Something could not be reached or started, or died."""
    INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True, slots=True)
class Campaign:
    """What is asked for. With a ``goal`` the rate is searched that holds it, from ``plan.rate`` on."""

    plan: LoadPlan
    kinds: tuple[str, ...]
    stack: StackRequest
    gates: tuple[Gate, ...] = ()
    goal: Gate | None = None
    precision: float = 0.1
    processes: int = 1
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in {*KINDS.values(), "StoryUser"}]
        if unknown or not self.kinds:
            raise ConfigurationError(f"users are of {', '.join(KINDS)}; found {unknown or 'none'}")
        if self.processes < 1:
            raise ConfigurationError(f"need at least 1 process, got {self.processes}")

    @property
    def title(self) -> str:
        """What is loaded, in words."""
        story = self.plan.story
        if story is not None:
            return f"scenario {story.name}"
        return ", ".join(dict.fromkeys(_called(self.plan, kind) for kind in self.kinds))


def run_campaign(campaign: Campaign, *, progress: Callable[[dict[str, Any]], object], tell: Tell) -> Report:
    """Run it all and return the report; `StackError` or `ConfigurationError` if it cannot be run."""
    require_locust()
    with Children() as children:
        stack = raise_stack(campaign.stack, children)
        tell(f"{campaign.title} · {' · '.join(stack.told)}")
        plan = replace(campaign.plan, redirect=stack.redirect, events=stack.events)

        def run(one: LoadPlan) -> Ran:
            return run_load(_loading(campaign, one, stack), children, progress=progress)

        if campaign.goal is None:
            return _report(campaign, plan, run(plan), stack)
        return _search(campaign, plan, stack, run=run, tell=tell)


def run_page(campaign: Campaign, port: int, *, tell: Tell) -> int:
    """Have Locust's page up until somebody ends it."""
    require_locust()
    with Children() as children:
        stack = raise_stack(campaign.stack, children)
        tell(f"{campaign.title} · {' · '.join(stack.told)}")
        tell(f"Locust's page is at http://127.0.0.1:{port}; Ctrl-C ends it")
        plan = replace(campaign.plan, redirect=stack.redirect, events=stack.events)
        return run_web(_loading(campaign, plan, stack), children, port=port)


def exit_code(report: Report) -> int:
    """Return what the command ends with."""
    if report.ended == "interrupted":
        return Exit.INTERRUPTED
    if report.ended == "died":
        return Exit.STACK
    return Exit.OK if report.passed else Exit.GATE


def _search(
    campaign: Campaign, plan: LoadPlan, stack: Stack, *, run: Callable[[LoadPlan], Ran], tell: Tell
) -> Report:
    goal = campaign.goal
    assert goal is not None
    last: list[tuple[LoadPlan, Ran]] = []
    best: list[tuple[LoadPlan, Ran]] = []

    def attempt(rate: float) -> Trial:
        one = replace(plan, rate=rate)
        ran = run(one)
        last[:] = [(one, ran)]
        if ran.ended != "done":
            raise _CutShortError
        trial = _judge(rate, goal, all_figures(ran.account, one))
        if trial.held:
            best[:] = last
        tell(f"{show_count(rate)}/s {'held' if trial.held else 'missed'}: {trial.why}")
        return trial

    assert plan.rate is not None
    trials: list[Trial] = []
    limit: float | None = None
    try:
        limit, trials = find_limit(plan.rate, attempt, precision=campaign.precision)
    except _CutShortError:
        best[:] = last
    shown, ran = (best or last)[0]
    report = _report(campaign, shown, ran, stack)
    return replace(report, trials=tuple(asdict(trial) for trial in trials), limit=limit)


class _CutShortError(Exception):
    """Somebody interrupted the search, or the stack died in it."""


def _judge(rate: float, goal: Gate, figures: dict[str, float | None]) -> Trial:
    verdict = goal.as_goal(figures)
    # What was due, and not the rate: arrivals at random are a few more or less.
    throughput, due = figures["throughput"], figures["arrival_rate"]
    failures = (figures["failures"] or 0) + (figures["lost"] or 0)
    carried = throughput is not None and due is not None and throughput >= due * ACHIEVED
    why = f"{goal.metric} {verdict.found}"
    if failures:
        why += f", {show_count(failures)} failed or lost"
    if not carried:
        why += f", carried {show_count(throughput)}/s of {show_count(due)}/s"
    return Trial(
        rate=rate,
        held=verdict.passed and carried and not failures,
        why=why,
        throughput=throughput,
        p95=figures["p95"],
    )


def _loading(campaign: Campaign, plan: LoadPlan, stack: Stack) -> Loading:
    return Loading(plan=plan, kinds=campaign.kinds, stack=stack, processes=campaign.processes)


def _report(campaign: Campaign, plan: LoadPlan, ran: Ran, stack: Stack) -> Report:
    words = campaign.words
    if campaign.kinds == ("ApiUser",):
        words = (*words, "the API does not tell how long a run waited, nor how long it ran")
    return make_report(ran, plan, title=campaign.title, stack=stack.told, gates=campaign.gates, words=words)


def _called(plan: LoadPlan, kind: str) -> str:
    if kind not in WAYS:
        return "the HTTP API"
    call = plan.call_by(WAYS[kind])
    return f"{'workflow' if call.how == 'workflow' else 'task'} {call.name}"
