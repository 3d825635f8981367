"""What every command needs: the settings, somebody's app, and how a mistake is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["LEVELS", "Mistake", "read_app", "read_settings"]

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
