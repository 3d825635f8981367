"""The command line. Heavy imports stay inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

from taskservice.cli.commands import cli, main

__all__ = ["cli", "main"]
