"""What Locust is told on its command line, by a user or by ``taskservice load``."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final

from taskservice.errors import ConfigurationError
from taskservice.load.arrivals import ARRIVALS
from taskservice.load.calls import Call
from taskservice.load.plan import LoadPlan
from taskservice.load.profiles import SHAPES
from taskservice.load.quantities import parse_rate, parse_span

__all__ = ["Flags", "add_flags", "read_flags"]

ENVIRONMENT: Final = "TASKSERVICE_LOAD_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """The plan, and what only `taskservice load` asks for: a file for the account, a pipe of progress."""

    plan: LoadPlan
    result: str
    progress: int | None


def add_flags(parser: Any, **_: object) -> None:
    """Add them to Locust's parser; a listener for ``init_command_line_parser``."""

    def flag(name: str, **said: Any) -> None:
        variable = f"{ENVIRONMENT}{name.upper().replace('-', '_')}"
        parser.add_argument(f"--load-{name}", env_var=variable, **said)

    flag("task", default="", help="Task or workflow: a registered name, or package.module:attribute.")
    flag("args", default="[]", help="Its arguments, as a JSON list.")
    flag("kwargs", default="{}", help="Its keywords, as JSON.")
    flag("app", default="", help="Your Celery app, as package.module:attribute.")
    flag("backend", default="auto", help="The service's back end: auto, celery or anyio.")
    flag("rate", default="", help="Open model: how many runs a second are due in all, such as 500/s.")
    flag("arrivals", default="poisson", choices=ARRIVALS, help="How runs of a rate are spaced.")
    flag("seed", default=0, type=int, help="What the arrivals are drawn from.")
    flag("pace", default="", help="Closed model: each user has a run due this often, such as 1s.")
    flag("warmup", default="0s", help="How long runs do not count for latency and throughput.")
    flag("drain", default="10s", help="How long the ends of runs are waited for.")
    flag("shape", default="flat", choices=SHAPES, help="How the number of users changes.")
    flag("duration", default="60s", help="How long a shape takes; without one it is --run-time.")
    flag("factor", default=5.0, type=float, help="How much higher a spike is.")
    flag("steps", default=10, type=int, help="How many steps there are.")
    flag("until", default="p95>1s", help="What ends steps: a gate.")
    flag("forget", action="store_true", help="Do not await results: measure sending alone.")
    flag("events", action="store_true", help="Hear the workers' task events.")
    flag("token", default="", help="Bearer token for the API.", is_secret=True)
    flag("plan", default="", help="All of it as JSON, instead.", include_in_web_ui=False)
    flag("result", default="", help="File for the account, as JSON.", include_in_web_ui=False)
    flag("progress", default=-1, type=int, help="Descriptor for the progress.", include_in_web_ui=False)


def read_flags(options: Any) -> Flags:
    """Return what ``options``, parsed by Locust, say; `ConfigurationError` for a mistake."""
    plan = LoadPlan.from_json(json.loads(options.load_plan)) if options.load_plan else _plan(options)
    progress = None if options.load_progress < 0 else options.load_progress
    return Flags(plan=plan, result=options.load_result, progress=progress)


def _plan(options: Any) -> LoadPlan:
    try:
        call = None
        if options.load_task:
            args, kwargs = json.loads(options.load_args), json.loads(options.load_kwargs)
            call = Call(name=options.load_task, args=tuple(args), kwargs=dict(kwargs))
        duration = options.run_time or parse_span(options.load_duration)
        made = LoadPlan(
            call=call,
            app=options.load_app or None,
            backend=options.load_backend,
            users=options.num_users or 1,  # as Locust has it
            duration=float(duration),
            arrivals=options.load_arrivals,
            seed=options.load_seed,
            warmup=parse_span(options.load_warmup),
            drain=parse_span(options.load_drain),
            shape=options.load_shape,
            factor=options.load_factor,
            steps=options.load_steps,
            until=options.load_until,
            events=bool(options.load_events),
            forget=bool(options.load_forget),
            token=options.load_token,
        )
        rate = parse_rate(options.load_rate) if options.load_rate else None
        pace = parse_span(options.load_pace) if options.load_pace else None
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{error}") from error
    return replace(made, rate=rate, pace=pace)
