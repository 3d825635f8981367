"""A scenario's failure, shrunk: told in its report, and written out as a scenario file that can be run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from pytest_taskservice.again import run_again
from pytest_taskservice.played import PLAY
from pytest_taskservice.report.files import replace_file, shown_path
from pytest_taskservice.worlds import replay_command

if TYPE_CHECKING:
    import pytest

    from pytest_taskservice.options import HarnessOptions
    from pytest_taskservice.report.play import Play
    from pytest_taskservice.scenario.engine import Verdict
    from pytest_taskservice.scenario.model import Scenario
    from pytest_taskservice.scenario.shrinking import ShrunkStory

__all__ = ["explain_story"]

_SECTION = "taskservice shrunk story"
_UNSAFE = re.compile(r"[^\w.=-]+")


def explain_story(item: pytest.Item, report: pytest.TestReport, options: HarnessOptions) -> None:
    """Add to the failed ``report`` the smallest story that still breaks the same rule."""
    play = item.stash.get(PLAY, None)
    if play is None or play.seed is None or play.verdict.passed:
        return
    from pytest_taskservice.scenario.shrinking import shrink_story

    try:
        shrunk = shrink_story(play.scenario, play.verdict.mismatches[0], partial(_play, item), seed=play.seed)
    finally:
        item.stash[PLAY] = None
    report.sections.append((_SECTION, "\n".join(_told(item, play, shrunk, options))))


def _play(item: pytest.Item, scenario: Scenario, seed: int) -> Verdict | None:
    found: Any = item
    item.stash[PLAY] = None
    with found.telling(scenario, world=f"celery-sim-seed={seed}"):
        run_again(item)
    play = item.stash[PLAY]
    return None if play is None else play.verdict


def _told(item: pytest.Item, play: Play, shrunk: ShrunkStory, options: HarnessOptions) -> Iterator[str]:
    from pytest_taskservice.report.text import first_line
    from pytest_taskservice.scenario.write import write

    yield str(shrunk)
    if not shrunk.replayed:
        return
    mismatch = first_line(shrunk.mismatch)
    try:
        shown, command = _written(item, play, shrunk, options, mismatch)
    except OSError as error:
        shown, command = f"cannot be written: {error}", ""
    yield ""
    yield from (f"  {line}" for line in write(shrunk.scenario).splitlines())
    yield from ("", f"  {mismatch}", f"  file:    {shown}")
    if command:
        yield f"  replay:  {command}"


def _written(
    item: pytest.Item, play: Play, shrunk: ShrunkStory, options: HarnessOptions, mismatch: str
) -> tuple[str, str]:
    """Write the story out; return where to, and the command that plays it."""
    from pytest_taskservice.scenario.write import write

    path = _place(item, play, options)
    shown = shown_path(path)
    command = replay_command(item, options, seed=shrunk.seed, path=shown)
    comments = [
        f"Shrunk from {play.scenario.mark}, {play.scenario.title!r}, seed {play.seed}:",
        f"the smallest story found that still fails in celery-sim at {shrunk.mismatch.mark}.",
        mismatch,
        f"replay:  {command}",
    ]
    replace_file(path, write(shrunk.scenario, comments=comments))
    return shown, command


def _place(item: pytest.Item, play: Play, options: HarnessOptions) -> Path:
    """Return where a shrunk story goes: beside the records, else into pytest's cache."""
    stem = _UNSAFE.sub("_", f"{item.path.name.partition('.')[0]}-{play.scenario.title}-seed={play.seed}")[
        :100
    ]
    name = f"{stem}-{crc32(item.nodeid.encode()):08x}.scenario.yaml"
    if options.report is not None:
        # Hidden, or the next session would collect it as a test.
        return options.report / ".shrunk" / name
    cache = getattr(item.config, "cache", None)
    if cache is None:
        return Path(tempfile.mkdtemp(prefix="taskservice-")) / name
    directory: Path = cache.mkdir("taskservice")
    return directory / name
