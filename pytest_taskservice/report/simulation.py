"""What a failure report tells of a simulated test: its seed, its story, and how to see it again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pytest_taskservice.simulator.telling import side_by_side, tell, told_instant

if TYPE_CHECKING:
    from pytest_taskservice.simulator.shrinking import Shrunk
    from pytest_taskservice.simulator.story import Story

__all__ = ["render_difference", "render_simulation"]

_CAUSES = (
    "usual causes: the order of a set, os.urandom or secrets, real threads or sockets, an instant read "
    "before the test began, an address in a result's repr, and what the first run left behind"
)


def render_simulation(story: Story, *, replay: str, shrunk: Shrunk | None = None) -> str:
    """Return the facts of a simulation, the table of what happened, and the command ``replay``.

    The table is that of the shrunk story, if there is one.
    """
    start = datetime.fromtimestamp(story.start, tz=UTC).isoformat()
    took = told_instant(story.elapsed)
    lines = [f"seed {story.seed} · start {start} · digest {story.digest} · {took} s of virtual time", ""]
    shown = story
    if shrunk is not None:
        shown = shrunk.story
        lines += [str(shrunk), ""]
    lines += [f"  {line}".rstrip() for line in tell(shown)]
    lines += ["", f"replay:  {replay}"]
    return "\n".join(lines)


def render_difference(first: Story, second: Story) -> str | None:
    """Return where two runs with the same seed part; ``None`` if they do not."""
    number = first.parts_from(second)
    if number is None:
        return None

    title = f"seed {second.seed} told two stories, which part at event {number + 1}"
    digests = f"digests {first.digest} and {second.digest}"
    lines = [f"{title}: {digests}", "", *side_by_side(first, second, number), ""]
    lines += [
        f"{name}: {mine!r} | {theirs!r}" for name, (mine, theirs) in first.differences(second, number).items()
    ]
    return "\n".join([*lines, _CAUSES])
