"""Commands that other packages bring along, by the entry point group ``taskservice.commands``."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

from taskservice.cli.common import Mistake

__all__ = ["PluggedGroup"]

_GROUP = "taskservice.commands"


class PluggedGroup(click.Group):
    """A group that knows its own commands and those of installed packages, which it loads when named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all."""
        return sorted({*super().list_commands(ctx), *entry_points(group=_GROUP).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name; its own ones win."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own

        found = next(iter(entry_points(group=_GROUP, name=cmd_name)), None)
        return None if found is None else _load(found)


def _load(found: EntryPoint) -> click.Command:
    try:
        command = found.load()
    except (ImportError, AttributeError) as error:
        raise Mistake(f"the command {found.name!r} cannot be loaded from {found.value}: {error}") from error

    if not isinstance(command, click.Command):
        raise Mistake(f"the command {found.name!r} is none: {found.value} is a {type(command).__name__}")
    return command
