"""Cases: those that are written out, and those that Hypothesis draws. The same ones in every run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.contract.truth import truth_tasks
from tests.contract.truth.truth_cases import Case, Tree, leaf

__all__ = ["drawn_trees", "lasting", "single"]

_TASKS = ("play", "late", "tracked", "quiet", "auto", "expected")
EXPIRES = {"countdown": 2.0, "expires": 1.5}
"""Where a worker has the message before it expires, and finds it expired when it is due."""
_ERRBACKS = ("", "", "new", "old", "new old")


def single() -> list[Case]:
    """Return each way to end, of single tasks."""
    return [
        Case(f"one{number}", tree, options, revoked=revoked)
        for number, (tree, options, revoked) in enumerate(_single())
    ]


def lasting() -> list[Case]:
    """Return what takes seconds on a real worker: limits, and processes that end."""
    found: list[tuple[Tree, dict[str, Any]]] = []
    found += [
        (leaf("sleep", "limited", seconds=30, soft=soft, errback="new", link=1), {})
        for soft in ("raise", "catch", "ignore")
    ]
    found.append((leaf("sleep", seconds=30, soft="raise", options={"soft_time_limit": 0.4}), {}))
    found.append((leaf("sleep", seconds=30, soft="catch"), {"time_limit": 0.4}))
    found.append((leaf("sleep", "limited", seconds=0.01, soft="raise"), {}))
    found.append((leaf("exit", code=3, errback="new"), {}))
    found.append((leaf("exit", "late", code=0), {}))
    header = [leaf("sleep", "limited", seconds=30, soft="ignore"), leaf()]
    found.append(({"chord": header, "body": leaf(errback="new old")}, {}))
    found.append(({"chain": [leaf("exit", code=1), leaf()]}, {}))
    return [Case(f"long{number}", tree, options) for number, (tree, options) in enumerate(found)]


def drawn_trees(number: int) -> list[Case]:
    """Return ``number`` trees that Hypothesis has drawn: always the same ones."""
    found: list[Tree] = []

    # Nothing is checked here: all cases are played together, which one call for each would not let us.
    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_trees())
    def collect(tree: Tree) -> None:
        found.append(tree)

    collect()
    return [Case(f"tree{at}", tree) for at, tree in enumerate(found)]


def _single() -> Iterator[tuple[Tree, dict[str, Any], bool]]:
    # First: those that have to arrive in time.
    for options, revoked in product(_options(), (False, True)):
        yield leaf(errback="new"), options, revoked
        yield leaf("return", "late"), options, revoked
    for tree in _ways():
        yield tree, {}, False


def _ways() -> Iterator[Tree]:
    for value in (*truth_tasks.ODD, *truth_tasks.UNSENDABLE):
        yield leaf(value=value)
    for error in truth_tasks.ERRORS:
        yield leaf("raise", error=error)
    yield leaf("raise", error="value", cause=True)
    for task, kind in product(_TASKS, _ends()):
        if task != "auto" or kind["kind"] != "retry":
            yield leaf(task=task, **kind)
    for more in ({"link": 2}, {"errback": "new"}, {"errback": "old"}, {"errback": "new old new", "link": 1}):
        for kind in _ends():
            yield leaf(**kind, **more)
    yield from (leaf("ignore", state=True), leaf("progress"), leaf("get"))


def _ends() -> Iterator[dict[str, Any]]:
    yield {"kind": "return"}
    yield {"kind": "raise", "error": "value"}
    yield {"kind": "raise", "error": "odd"}
    yield {"kind": "ignore"}
    yield {"kind": "reject", "requeue": False}
    yield {"kind": "reject", "requeue": True}
    yield {"kind": "retry", "times": 1, "countdown": truth_tasks.LATER, "then": {"kind": "return"}}
    yield {"kind": "retry", "times": 3, "then": {"kind": "return", "value": "decimal"}}
    yield {"kind": "retry", "times": 9, "error": "value", "then": {}}
    yield {"kind": "retry", "times": 9, "most": 1, "then": {}}
    yield {"kind": "retry", "times": 9, "most": 0, "error": "odd", "then": {}}
    yield {"kind": "retry", "times": 1, "anew": True, "then": {"kind": "raise", "error": "key"}}
    yield {"kind": "retry", "times": 1, "quietly": True, "then": {}}


def _options() -> Iterator[dict[str, Any]]:
    yield {}
    yield {"countdown": 0.2}
    yield EXPIRES
    yield {"countdown": 0.2, "expires": 60}
    yield {"expires": -5}
    yield {"queue": "truth-other", "priority": 3}
    yield {"shadow": "somebody else"}
    yield {"ignore_result": True}
    yield {"headers": {"colour": "red"}, "stamped_headers": ["colour"], "colour": "red"}
    yield {"serializer": "yaml"}
    yield {"compression": "zlib"}


def _trees() -> st.SearchStrategy[Tree]:
    return st.recursive(_leaves(), _branches, max_leaves=6)


def _leaves() -> st.SearchStrategy[Tree]:
    ends = [end for end in _ends() if end["kind"] != "reject" and not end.get("quietly")]
    # Most of them go well, or a tree ends at its first leaf.
    kinds = st.one_of(st.just({"kind": "return"}), st.just({"kind": "return"}), st.sampled_from(ends))
    return st.builds(
        # Celery keeps what retry() was told last in the task's class. Each process has its own, and which
        # of them runs a task is chance. So no task that retries by itself is told.
        lambda end, task, link, errback, immutable: leaf(
            task="play" if task == "auto" and end["kind"] == "retry" else task,
            link=link,
            errback=errback,
            immutable=immutable,
            **end,
        ),
        kinds,
        st.sampled_from(("play", "play", "late", "auto", "expected")),
        st.sampled_from((0, 0, 1)),
        st.sampled_from(_ERRBACKS),
        st.booleans(),
    )


def _branches(trees: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    members = st.lists(trees, min_size=1, max_size=3)
    backs = st.sampled_from(_ERRBACKS)
    return st.one_of(
        st.builds(
            lambda steps, back: {"chain": steps, "errback": back},
            st.lists(trees, min_size=2, max_size=3),
            backs,
        ),
        st.builds(lambda all_, back: {"group": all_, "errback": back}, members, backs),
        st.builds(
            lambda all_, body, back: {"chord": all_, "body": body, "errback": back}, members, trees, backs
        ),
        st.builds(lambda by: leaf("replace", by=by), trees),
        st.builds(lambda what: leaf("send", what=what), st.lists(trees, min_size=1, max_size=2)),
    )
