"""``taskservice dead``: the dead letters of the workers, seen, requeued and dropped by hand."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from json import dumps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskservice.cli.common import Mistake, lean_table, read_app, read_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from taskservice.deadletters import DeadLetter, DeadLetters

__all__ = ["dead"]

T = TypeVar("T")

app_option = click.option("--app", "-A", "app_name", help="Your own Celery app, as package.module:attribute.")
json_option = click.option("--json", "as_json", is_flag=True, help="Plain JSON instead of text.")
task_option = click.option("--task", help="Only those of the task with this name.")
ids_argument = click.argument("ids", nargs=-1)


@click.group()
def dead() -> None:
    """List, show, requeue and drop runs that failed for good."""


@dead.command("list")
@task_option
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@json_option
@app_option
def list_letters(task: str | None, limit: int, app_name: str | None, *, as_json: bool) -> None:
    """List them, newest first, without their payload."""
    letters = _ask(app_name, lambda found: found.list(limit=limit, task=task))
    if as_json:
        click.echo(dumps([_plain(letter, payload=False) for letter in letters], indent=2))
    elif letters:
        _print_table(letters)
    else:
        click.echo("no dead letters")


@dead.command()
@click.argument("run_id", metavar="ID")
@json_option
@app_option
def show(run_id: str, app_name: str | None, *, as_json: bool) -> None:
    """Show one with its payload and its traceback; exit code 1 if there is none."""
    from taskservice.errors import DeadLetterNotFoundError

    try:
        letter = _ask(app_name, lambda found: found.get(run_id))
    except DeadLetterNotFoundError as error:
        click.echo(f"taskservice: {error}", err=True)
        sys.exit(1)

    plain = _plain(letter, payload=True)
    if as_json:
        click.echo(dumps(plain, indent=2, default=str))
        return

    traceback = plain.pop("traceback")
    for name, value in plain.items():
        shown = dumps(value, default=str) if name in {"args", "kwargs"} else _text(value)
        click.echo(f"{name + ':':15} {shown}")
    if traceback:
        click.echo(f"\n{traceback.rstrip()}")


@dead.command()
@ids_argument
@click.option("--all", "everything", is_flag=True, help="All of them, or all of --task.")
@task_option
@app_option
def requeue(ids: tuple[str, ...], task: str | None, app_name: str | None, *, everything: bool) -> None:
    """Run them again, each under its old id; exit code 1 if one of the IDs is unknown."""
    _check_choice(ids, task, everything=everything)
    _each(app_name, ids, task, "requeued", _requeue_one)


@dead.command()
@ids_argument
@click.option("--all", "everything", is_flag=True, help="All of them, or all of --task.")
@task_option
@app_option
def drop(ids: tuple[str, ...], task: str | None, app_name: str | None, *, everything: bool) -> None:
    """Forget them; exit code 1 if one of the IDs is unknown."""
    _check_choice(ids, task, everything=everything)
    _each(app_name, ids, task, "dropped", lambda found, run_id: found.drop(run_id))


async def _requeue_one(found: DeadLetters, run_id: str) -> bool:
    from taskservice.errors import DeadLetterNotFoundError

    try:
        await found.requeue(run_id)
    except DeadLetterNotFoundError:
        return False
    return True


def _check_choice(ids: Sequence[str], task: str | None, *, everything: bool) -> None:
    if bool(ids) == everything:
        raise Mistake("name the ids of dead letters, or say --all, and not both")
    if task is not None and not everything:
        raise Mistake("--task goes with --all")


def _each(
    app_name: str | None,
    ids: Sequence[str],
    task: str | None,
    done: str,
    act: Callable[[DeadLetters, str], Awaitable[bool]],
) -> None:
    async def act_on_all(found: DeadLetters) -> list[tuple[str, bool]]:
        # What is requeued may fail and come back, so the choice is made before the first one goes.
        chosen = ids or [
            letter.id for letter in await found.list(limit=max(1, await found.count()), task=task)
        ]
        return [(run_id, await act(found, run_id)) for run_id in chosen]

    outcomes = _ask(app_name, act_on_all)
    click.echo(f"{sum(known for _, known in outcomes)} {done}")
    unknown = [run_id for run_id, known in outcomes if not known] if ids else []
    for run_id in unknown:
        click.echo(f"taskservice: no dead letter of run {run_id!r}", err=True)
    sys.exit(1 if unknown else 0)


def _ask(app_name: str | None, question: Callable[[DeadLetters], Awaitable[T]]) -> T:
    import anyio

    from taskservice.errors import BackendUnavailableError, ConfigurationError

    async def ask() -> T:
        async with _opened(app_name) as letters:
            return await question(letters)

    try:
        return anyio.run(ask)
    except (BackendUnavailableError, ConfigurationError) as error:
        raise Mistake(str(error)) from error


@asynccontextmanager
async def _opened(app_name: str | None) -> AsyncIterator[DeadLetters]:
    from taskservice.backends.celery import CeleryBackend
    from taskservice.worker.app import create_app

    settings = read_settings()
    app = read_app(app_name) or create_app(settings)
    async with CeleryBackend(app, settings=settings) as backend:
        yield backend.dead_letters


def _plain(letter: DeadLetter, *, payload: bool) -> dict[str, Any]:
    plain = {**letter.to_json(), "at": _instant(letter.at)}
    if not payload:
        for name in ("args", "kwargs", "traceback"):
            del plain[name]
    return plain


def _print_table(letters: Sequence[DeadLetter]) -> None:
    from rich.console import Console

    table = lean_table("run", "at", "cause", "task and error")
    for letter in letters:
        table.add_row(
            letter.id,
            datetime.fromtimestamp(letter.at, tz=UTC).strftime("%m-%d %H:%M"),
            letter.cause,
            f"{letter.task}\n{letter.error_type}",
        )
    Console().print(table)


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, tz=UTC).isoformat(timespec="seconds")


def _text(value: object) -> str:
    return "-" if value is None else str(value)
