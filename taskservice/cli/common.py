"""What every command needs: the settings, somebody's app, and how a mistake is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from celery import Celery
    from rich.table import Table

    from taskservice.settings import Settings

__all__ = ["LEVELS", "Mistake", "lean_table", "read_app", "read_settings"]

LEVELS = click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False)


class Mistake(click.ClickException):
    """A mistake of the user's: one line on stderr and exit code 2."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        """Print it."""
        click.echo(f"taskservice: {self.message}", err=True)


def read_settings() -> Settings:
    """Return the environment's settings."""
    from taskservice.errors import ConfigurationError
    from taskservice.settings import load_settings

    try:
        return load_settings()
    except ConfigurationError as error:
        raise Mistake(str(error)) from error


def read_app(name: str | None) -> Celery | None:
    """Return the app called ``package.module:attribute``, if one is named."""
    if name is None:
        return None

    from taskservice.errors import ConfigurationError
    from taskservice.worker.launch import find_app

    try:
        return find_app(name)
    except ConfigurationError as error:
        raise Mistake(str(error)) from error


def lean_table(first: str, *others: str) -> Table:
    """Return a table for 80 columns; what is in the first one is there to be copied, and stays whole."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold underline")
    table.add_column(first, no_wrap=True, overflow="ignore")
    for name in others:
        table.add_column(name, overflow="fold")
    return table
