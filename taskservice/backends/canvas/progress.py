"""How far a canvas has come: which runs are due, which never will be, and how it ends.

Pure by design: it hears of runs that ended, in any order, and says what follows. The back ends that
run a canvas themselves start what is due; where workers do that, only the end is of interest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from taskservice.backends.canvas.plan import Plan, Run, Series, Step
from taskservice.backends.remote import RemoteOutcome
from taskservice.errors import ChordError, RunCancelledError
from taskservice.runs import TaskState

__all__ = ["Progress"]


class Progress:
    """The progress of one plan. ``outcome`` is set once its end is certain.

    ``due`` are runs to start now, each with the value before it; ``skipped`` are runs that will never
    start, each with the outcome that this is. Whoever acts on them takes them away.
    """

    def __init__(self, plan: Plan) -> None:
        self.due: deque[tuple[Run, Any]] = deque()
        self.skipped: deque[tuple[Run, RemoteOutcome]] = deque()
        self._leaves: dict[str, _Leaf] = {}
        self._root = self._node(plan.root, None)

    @property
    def outcome(self) -> RemoteOutcome | None:
        """How it ends, or ``None`` as long as that is open."""
        return self._root.outcome

    def begin(self) -> None:
        """Make its first runs due."""
        self._root.begin(None)

    def note(self, run_id: str, outcome: RemoteOutcome) -> None:
        """Take down how a run ended; what is not final, or is known already, changes nothing."""
        leaf = self._leaves[run_id]
        if outcome.state.final and leaf.outcome is None:
            leaf.end(outcome)

    def _node(self, step: Step, parent: _Node | None) -> _Node:
        if isinstance(step, Run):
            leaf = self._leaves[step.id] = _Leaf(self, parent, step)
            return leaf

        node: _Series | _Parallel
        node = _Series(self, parent) if isinstance(step, Series) else _Parallel(self, parent)
        parts = step.steps if isinstance(step, Series) else step.members
        node.parts = [self._node(each, node) for each in parts]
        node.left = len(node.parts)
        return node


class _Node:
    __slots__ = ("left", "outcome", "parent", "parts", "progress")

    def __init__(self, progress: Progress, parent: _Node | None) -> None:
        self.progress = progress
        self.parent = parent
        self.outcome: RemoteOutcome | None = None
        self.parts: list[_Node] = []
        self.left = 0

    def begin(self, previous: Any) -> None:
        raise AssertionError

    def part_over(self, part: _Node, outcome: RemoteOutcome) -> None:
        raise AssertionError

    def end(self, outcome: RemoteOutcome) -> None:
        self.outcome = outcome
        if self.parent is not None:
            self.parent.part_over(self, outcome)

    def leaves(self) -> Iterator[_Leaf]:
        for part in self.parts:
            yield from part.leaves()


class _Leaf(_Node):
    __slots__ = ("run",)

    def __init__(self, progress: Progress, parent: _Node | None, run: Run) -> None:
        super().__init__(progress, parent)
        self.run = run

    def begin(self, previous: Any) -> None:
        if self.outcome is None:
            self.progress.due.append((self.run, previous))

    def leaves(self) -> Iterator[_Leaf]:
        yield self


class _Series(_Node):
    def begin(self, previous: Any) -> None:
        if self.outcome is None:
            self.parts[0].begin(previous)

    def part_over(self, part: _Node, outcome: RemoteOutcome) -> None:
        if self.outcome is not None:
            return

        following = self.parts[self.parts.index(part) + 1 :]
        if outcome.state is not TaskState.SUCCESS:
            ending = _of_header(part, outcome) if following else outcome
            self._skip(following, ending)
            self.end(ending)
        elif following:
            following[0].begin(outcome.value)
        else:
            # A worker may not have stored what the steps before came to.
            self.end(outcome)

    def _skip(self, following: list[_Node], ending: RemoteOutcome) -> None:
        for part in following:
            for leaf in part.leaves():
                if leaf.outcome is None:
                    leaf.outcome = _never(leaf.run, ending)
                    self.progress.skipped.append((leaf.run, leaf.outcome))


class _Parallel(_Node):
    def begin(self, previous: Any) -> None:
        for part in self.parts:
            part.begin(previous)

    def part_over(self, part: _Node, outcome: RemoteOutcome) -> None:
        self.left -= 1
        if self.left:
            return

        outcomes = [each.outcome for each in self.parts if each.outcome is not None]
        failed = next((each for each in outcomes if each.state is not TaskState.SUCCESS), None)
        self.end(failed or RemoteOutcome(state=TaskState.SUCCESS, value=[each.value for each in outcomes]))

    def first_failed(self) -> _Leaf | None:
        """Return the run for which it failed."""
        return next((leaf for leaf in self.leaves() if _failed(leaf)), None)


def _failed(leaf: _Leaf) -> bool:
    return leaf.outcome is not None and leaf.outcome.state is not TaskState.SUCCESS


def _of_header(part: _Node, outcome: RemoteOutcome) -> RemoteOutcome:
    # Of a header that was revoked there is nothing to report but that.
    if not isinstance(part, _Parallel) or outcome.state is TaskState.REVOKED or outcome.error is None:
        return outcome

    leaf = part.first_failed()
    error = ChordError("" if leaf is None else leaf.run.id, repr(outcome.error))
    error.__cause__ = outcome.error
    return RemoteOutcome(state=TaskState.FAILURE, error=error)


def _never(run: Run, ending: RemoteOutcome) -> RemoteOutcome:
    if ending.state is TaskState.REVOKED:
        return RemoteOutcome(state=TaskState.REVOKED, error=RunCancelledError(run.id))

    return RemoteOutcome(state=TaskState.FAILURE, error=ending.error)
