"""``taskservice load``: how many tasks a second a set-up carries, and what users feel."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskservice.cli.common import Mistake

if TYPE_CHECKING:
    from taskservice.load.calls import Call, Story
    from taskservice.load.campaign import Campaign
    from taskservice.load.gates import Gate
    from taskservice.load.plan import LoadPlan
    from taskservice.load.report import Report
    from taskservice.load.stack import StackRequest

__all__ = ["load"]

KINDS = click.Choice(["task", "workflow", "celery", "api"])
SHAPES = click.Choice(["flat", "ramp", "spike", "soak", "steps"])


@click.command()
@click.option("--users", "-u", type=click.IntRange(min=1), help="How many users; default: 10.")
@click.option(
    "--rate", "-r", help="Runs due a second whatever becomes of others, such as 500/s: the open model."
)
@click.option("--pace", help="Closed model: each user has a run due this often, such as 1s.")
@click.option("--duration", "-d", default="10s", show_default=True, help="How long.")
@click.option("--warmup", default="0s", show_default=True, help="How long runs do not count at first.")
@click.option("--drain", default="10s", show_default=True, help="How long the last ends are waited for.")
@click.option("--shape", type=SHAPES, default="flat", show_default=True, help="How the load changes.")
@click.option("--factor", type=float, default=5.0, show_default=True, help="How much higher a spike is.")
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="How many steps.")
@click.option("--until", default="p95>1s", show_default=True, help="The gate that ends --shape steps.")
@click.option("--arrivals", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="What arrivals are drawn from.")
@click.option("--kind", "-k", "kinds", type=KINDS, multiple=True, help="What users do; may be repeated.")
@click.option("--task", "-t", help="Task or workflow: a registered name, or package.module:attribute.")
@click.option("--args", default="[]", help="Its arguments, as a JSON list.")
@click.option("--kwargs", default="{}", help="Its keywords, as JSON.")
@click.option(
    "--scenario", type=click.Path(path_type=Path), help="The steps of a scenario file are the load."
)
@click.option("--case", help="Which scenario of the file.")
@click.option("--backend", type=click.Choice(["celery", "anyio"]), default="celery", show_default=True)
@click.option("--app", "-A", help="Your own Celery app, as package.module:attribute, on its own broker.")
@click.option(
    "--redis-url", default="", help="A Redis that runs; default: the settings', else one of our own."
)
@click.option("--own-redis", is_flag=True, help="Put your --app on a Redis of our own.")
@click.option("--url", default="", help="An API that runs, for --kind api.")
@click.option("--token", default="", envvar="TASKSERVICE_LOAD_TOKEN", help="Its bearer token.")
@click.option(
    "--pool", type=click.Choice(["prefork", "threads", "solo"]), default="prefork", show_default=True
)
@click.option(
    "--concurrency", "-c", type=click.IntRange(min=1), default=2, show_default=True, help="Its slots."
)
@click.option("--no-worker", is_flag=True, help="Neither ask for a worker nor start one.")
@click.option("--forget", is_flag=True, help="Do not await results: measure sending alone.")
@click.option("--events/--no-events", default=None, help="Hear task events: when runs start, for how long.")
@click.option(
    "--processes", "-p", type=click.IntRange(min=1), default=1, show_default=True, help="Of Locust."
)
@click.option(
    "--fail-if", "gates", multiple=True, help="A gate, such as p95>200ms or lost>0; may be repeated."
)
@click.option("--find-limit", is_flag=True, help="Search the highest rate that holds the --goal.")
@click.option("--goal", default="p95<200ms", show_default=True, help="What --find-limit holds.")
@click.option(
    "--precision", type=click.FloatRange(0.01, 1), default=0.1, show_default=True, help="How close."
)
@click.option("--out", "-o", type=click.Path(path_type=Path, file_okay=False), default=Path("load-report"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--web", is_flag=True, help="Have Locust's page up instead, until Ctrl-C.")
@click.option("--web-port", type=click.IntRange(1, 65535), default=8089, show_default=True)
def load(**said: Any) -> None:
    """Load a set-up, and show its throughput, its latency and where every run is.

    What is missing is started for the time of the run: a Redis, a worker, the API. The report is written to
    load-report/. Exit codes: 0, 1 a gate failed or a run was lost, 2 a mistake, 3 something could not be
    reached or started or died, 130 interrupted.
    """
    from taskservice.errors import ConfigurationError
    from taskservice.load.errors import StackError

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        campaign = _campaign(said)
        code = _web(campaign, said) if said["web"] else _run(campaign, said)
    except ConfigurationError as error:
        raise Mistake(str(error)) from error
    except StackError as error:
        click.echo(f"taskservice: {error}", err=True)
        code = 3
    except KeyboardInterrupt:
        click.echo("taskservice: interrupted before there was anything to report", err=True)
        code = 130
    sys.exit(code)


def _run(campaign: Campaign, said: dict[str, Any]) -> int:
    from taskservice.load.campaign import exit_code, run_campaign
    from taskservice.load.page import write_report
    from taskservice.load.terminal import ProgressLine, show_report

    line = ProgressLine(campaign.plan.duration)

    def tell(text: str) -> None:
        line.close()
        click.echo(text, err=True)

    report = run_campaign(campaign, progress=line, tell=tell)
    line.close()
    write_report(report, said["out"])
    if said["as_json"]:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        show_report(report)
        _show_limit(report, campaign)
        click.echo(f"report: {said['out'] / 'report.html'}")
    if report.died:
        click.echo(f"taskservice: {report.died}; the report has what was known until then", err=True)
    return exit_code(report)


def _show_limit(report: Report, campaign: Campaign) -> None:
    if campaign.goal is None:
        return
    if report.limit is None:
        click.echo(f"no rate held {campaign.goal.text}; the figures are those of the last trial")
    else:
        click.echo(
            f"carries {report.limit:,.0f}/s with {campaign.goal.text}, found in {len(report.trials)} trials"
        )


def _web(campaign: Campaign, said: dict[str, Any]) -> int:
    from taskservice.load.campaign import run_page

    return run_page(campaign, said["web_port"], tell=lambda text: click.echo(text, err=True))


def _campaign(said: dict[str, Any]) -> Campaign:
    """Read all that was said before anything is started."""
    from taskservice.load.campaign import Campaign
    from taskservice.load.plan import KINDS as CLASSES

    gates = tuple(_gate(text) for text in said["gates"])
    goal = _gate(said["goal"]) if said["find_limit"] else None
    story = _story(said)
    kinds = ("StoryUser",) if story else tuple(CLASSES[kind] for kind in said["kinds"] or ("task",))
    plan = _plan(said, story)
    if goal is not None and plan.rate is None:
        plan = replace(plan, rate=100.0)
    return Campaign(
        plan=plan,
        kinds=kinds,
        stack=_stack(said, plan, kinds),
        gates=gates,
        goal=goal,
        precision=said["precision"],
        processes=said["processes"],
        words=() if story is None else story.ignored,
    )


def _gate(text: str) -> Gate:
    from taskservice.load.gates import parse_gate

    return parse_gate(text)


def _story(said: dict[str, Any]) -> Story | None:
    from taskservice.load.stories import read_story

    if said["scenario"] is None:
        if said["case"]:
            raise Mistake("--case chooses a scenario of a file: give --scenario")
        return None

    if said["task"] or said["kinds"]:
        raise Mistake("--scenario says what is sent: leave out --task and --kind")
    return read_story(said["scenario"], said["case"])


def _plan(said: dict[str, Any], story: Story | None) -> LoadPlan:
    from taskservice.load.plan import LoadPlan
    from taskservice.load.quantities import parse_rate, parse_span

    def given(name: str, read: Any) -> float | None:
        if said[name] is None:
            return None
        try:
            value: float = read(said[name])
        except ValueError as error:
            raise Mistake(f"--{name}: {error}") from error
        return value

    return LoadPlan(
        call=_call(said),
        story=story,
        app=said["app"],
        backend=said["backend"],
        users=said["users"],
        rate=given("rate", parse_rate),
        arrivals=said["arrivals"],
        seed=said["seed"],
        pace=given("pace", parse_span),
        duration=given("duration", parse_span) or 0.0,
        warmup=given("warmup", parse_span) or 0.0,
        drain=given("drain", parse_span) or 0.0,
        shape=said["shape"],
        factor=said["factor"],
        steps=said["steps"],
        until=said["until"],
        forget=said["forget"],
        token=said["token"],
    )


def _call(said: dict[str, Any]) -> Call | None:
    from taskservice.load.calls import Call

    args, kwargs = _json(said, "args", list), _json(said, "kwargs", dict)
    if said["task"] is None:
        if args or kwargs:
            raise Mistake("--args and --kwargs are those of a --task: give one")
        return None
    return Call(name=said["task"], args=tuple(args), kwargs=kwargs)


def _json(said: dict[str, Any], name: str, kind: type) -> Any:
    try:
        found = json.loads(said[name])
    except ValueError as error:
        raise Mistake(f"--{name}: {error}; write JSON") from error
    if not isinstance(found, kind):
        raise Mistake(f"--{name}: found {said[name]}; write a JSON {'list' if kind is list else 'object'}")
    return found


def _stack(said: dict[str, Any], plan: LoadPlan, kinds: tuple[str, ...]) -> StackRequest:
    from taskservice.load.plan import WAYS
    from taskservice.load.stack import StackRequest

    if said["own_redis"] and said["redis_url"]:
        raise Mistake("--own-redis and --redis-url: choose one")

    celery = said["backend"] == "celery"
    ways = [WAYS[kind] for kind in kinds if kind in WAYS]
    tasks = tuple(call.name for call in plan.calls(ways) if call.how != "workflow")
    return StackRequest(
        backend=said["backend"],
        app=said["app"],
        redis_url=said["redis_url"],
        own_redis=said["own_redis"],
        url=said["url"],
        wants_api="ApiUser" in kinds,
        wants_worker=celery and not said["no_worker"],
        events=_wants_events(said, tasks),
        pool=said["pool"],
        concurrency=said["concurrency"],
        imports=_imports(plan),
        queues=_queues(plan),
        tasks=tasks,
    )


def _wants_events(said: dict[str, Any], tasks: tuple[str, ...]) -> bool:
    if said["events"] is not None:
        return bool(said["events"])

    # Our own tasks and every workflow tell themselves when they ran; of others only task events do.
    from taskservice.load.tasks import TIMED

    return not TIMED.issuperset(tasks)


def _imports(plan: LoadPlan) -> tuple[str, ...]:
    named = [plan.call.name.partition(":")[0]] if plan.call is not None and ":" in plan.call.name else []
    return (*named, *(plan.story.imports if plan.story is not None else ()))


def _queues(plan: LoadPlan) -> tuple[str, ...]:
    moves = plan.story.moves if plan.story is not None else ()
    named = {move.call.options.get("queue") for move in moves if move.call is not None}
    return tuple(sorted(name for name in named if isinstance(name, str)))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
