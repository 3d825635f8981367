"""The commands that run workers and the beat, and show how they are."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskservice.cli.api import api
from taskservice.cli.common import LEVELS, lean_table, read_app, read_settings
from taskservice.cli.dead import dead
from taskservice.cli.load import load
from taskservice.cli.plugged import PluggedGroup

if TYPE_CHECKING:
    from rich.table import Table

    from taskservice.backends.overview import Overview
    from taskservice.health import WorkerHealth

__all__ = ["cli", "main"]

POOLS = click.Choice(["prefork", "threads", "solo", "gevent", "eventlet"])


def main() -> None:
    """Run the command line; a mistake of the user's is one line on stderr and exit code 2."""
    from taskservice.errors import TaskServiceError

    sys.path.insert(0, str(Path.cwd()))  # as `celery` does: your own app is found from where you are
    try:
        cli(standalone_mode=True)
    except TaskServiceError as error:
        click.echo(f"taskservice: {error}", err=True)
        sys.exit(2)


@click.group(cls=PluggedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taskservice", message="taskservice %(version)s")
def cli() -> None:
    """Run workers and the beat, see how they are, and look after what failed."""


cli.add_command(api)
cli.add_command(dead)
cli.add_command(load)


@cli.command()
@click.option("--queues", "-Q", default="", help="Queues to consume, with commas between them.")
@click.option("--pool", "-P", type=POOLS, default="prefork", show_default=True, help="Kind of pool.")
@click.option("--concurrency", "-c", type=click.IntRange(min=1), help="Slots; default: the CPUs.")
@click.option("--loglevel", "-l", type=LEVELS, default="INFO", show_default=True, help="Log level.")
@click.option("--app", "-A", "app_name", help="Your own Celery app, as package.module:attribute.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Show Prometheus metrics here; 0: any.")
@click.option("--metrics-host", help="Address to show them at; default: 127.0.0.1.")
def worker(  # noqa: PLR0913, PLR0917 - one for each option
    queues: str,
    pool: str,
    concurrency: int | None,
    loglevel: str,
    app_name: str | None,
    metrics_port: int | None,
    metrics_host: str | None,
) -> None:
    """Run a worker until it is told to stop."""
    if metrics_host is not None and metrics_port is None:
        raise click.UsageError("--metrics-host needs --metrics-port")

    settings = read_settings()
    with ExitStack() as stack:
        if metrics_port is not None:
            from taskservice.telemetry.multiprocess import collected

            stack.enter_context(collected())  # before your app imports prometheus_client
        app = read_app(app_name)
        from taskservice.worker.launch import run_worker

        run_worker(
            app=app,
            settings=settings,
            queues=tuple(name.strip() for name in queues.split(",") if name.strip()),
            pool=pool,
            concurrency=concurrency,
            loglevel=loglevel,
            metrics_port=metrics_port,
            metrics_host=metrics_host or "127.0.0.1",
        )


@cli.command()
@click.option(
    "--schedule",
    "-s",
    type=click.Path(path_type=Path),
    help="Remember in this file, with Celery's own scheduler, and not in Redis.",
)
@click.option("--loglevel", "-l", type=LEVELS, default="INFO", show_default=True, help="Log level.")
@click.option("--app", "-A", "app_name", help="Your own Celery app, as package.module:attribute.")
def beat(schedule: Path | None, loglevel: str, app_name: str | None) -> None:
    """Send the scheduled tasks until it is told to stop.

    Any number may run: one sends, and another takes over when it falls silent. With
    TASKSERVICE_BACKEND=anyio the tasks run in this process.
    """
    settings = read_settings()
    app = read_app(app_name)
    from taskservice.worker.beat import run_beat

    run_beat(app=app, settings=settings, schedule=schedule, loglevel=loglevel)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Plain JSON instead of a table.")
def status(*, as_json: bool) -> None:
    """Show workers and queues; exit code 1 if nobody would run a task."""
    settings = read_settings()
    from taskservice.backends.app import build_bare_app
    from taskservice.backends.overview import read_overview

    found = read_overview(build_bare_app(settings), settings)
    if as_json:
        from json import dumps

        click.echo(dumps(found.to_json(), indent=2))
    else:
        _show(found)
    sys.exit(0 if found.healthy else 1)


def _show(found: Overview) -> None:
    from rich.console import Console

    console = Console()
    if found.workers:
        console.print(_worker_table(found))
    for name in found.others:
        click.echo(f"worker {name} answers, but says nothing about itself")
    if found.queues:
        console.print(_queue_table(found))
    if found.problem:
        click.echo(f"taskservice: {found.problem}", err=True)


def _worker_table(found: Overview) -> Table:
    table = lean_table("worker", "age", "pool", "state", "slots", "running", "longest", "queues")
    for beat in found.workers:
        seen = beat.health(found.at)
        table.add_row(
            seen.name,
            _seconds(seen.age),
            seen.pool,
            _state(seen),
            str(seen.slots),
            str(seen.running),
            _seconds(seen.longest),
            ", ".join(seen.queues),
        )
    return table


def _state(seen: WorkerHealth) -> str:
    hangs = seen.pool_state == "hung" and seen.silent is not None
    return f"{seen.pool_state} for {_seconds(seen.silent)}" if hangs else str(seen.pool_state)


def _queue_table(found: Overview) -> Table:
    table = lean_table("queue", "waiting", "oldest")
    for queue in found.queues:
        table.add_row(queue.name, str(queue.depth), _seconds(queue.oldest_age))
    return table


def _seconds(span: float | None) -> str:
    return "-" if span is None else f"{span:.1f} s"
