"""The language of cases: trees of tasks as plain data, and Celery's canvas made from them.

A tree is ``{"leaf": behaviour}``, ``{"chain": [tree, ...]}``, ``{"group": [...]}``, or ``{"chord": [...],
"body": tree}``. Each task's id is its path in the tree, so that the same run is known in every world.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery import chain, chord, group

from tests.contract.truth import truth_tasks

__all__ = ["Case", "build", "leaf", "orders", "parallels"]

Tree = dict[str, Any]


class Case:
    """One tree, with the options it is sent with."""

    def __init__(
        self, name: str, tree: Tree, options: dict[str, Any] | None = None, *, revoked: bool = False
    ) -> None:
        self.name = name
        self.tree = tree
        self.options = options or {}
        self.revoked = revoked

    def signature(self) -> Any:
        """Return the canvas of the whole case."""
        return build(self.tree, self.name)

    def __repr__(self) -> str:
        return f"{self.name}: {self.tree} {self.options}{' revoked' if self.revoked else ''}"


def leaf(kind: str = "return", task: str = "play", **more: Any) -> Tree:
    """Return a single task that does ``kind``."""
    options = {name: more.pop(name) for name in ("options", "link", "errback", "immutable") if name in more}
    return {"leaf": {"task": task, "does": {"kind": kind, **more}, **options}}


def build(tree: Tree, path: str) -> Any:
    """Return the signature of ``tree``; ids are paths."""
    if "leaf" in tree:
        return _leaf(tree["leaf"], path)
    if "chain" in tree:
        return _linked(chain(*_all(tree["chain"], path)), tree, path)
    if "group" in tree:
        return _linked(group(_all(tree["group"], path)), tree, path)
    return _linked(chord(_all(tree["chord"], path), build(tree["body"], f"{path}.b")), tree, path)


def orders(tree: Tree, path: str) -> Iterator[tuple[str, str]]:
    """Yield pairs of paths of which all runs under the first end before any under the second starts."""
    children = tree.get("chain") or tree.get("group") or tree.get("chord") or ()
    for number, each in enumerate(children):
        yield from orders(each, f"{path}.{number}")
    if "chain" in tree:
        for number in range(len(children) - 1):
            yield f"{path}.{number}", f"{path}.{number + 1}"
    if "chord" in tree:
        for number in range(len(children)):
            yield f"{path}.{number}", f"{path}.b"
        yield from orders(tree["body"], f"{path}.b")


def parallels(tree: Tree, path: str) -> list[str]:
    """Return the paths of which several members run side by side, the outermost first."""
    if "leaf" in tree:
        return _parallels_of(tree["leaf"]["does"], path)
    members = tree.get("group") or tree.get("chord") or ()
    found = [path] if len(members) > 1 else []
    for number, each in enumerate(tree.get("chain") or members):
        found += parallels(each, f"{path}.{number}")
    return found + (parallels(tree["body"], f"{path}.b") if "chord" in tree else [])


def _parallels_of(does: dict[str, Any], path: str) -> list[str]:
    if "by" in does:
        return parallels(does["by"], f"{path}.r")
    sent = enumerate(does.get("what", ()))
    return [found for number, each in sent for found in parallels(each, f"{path}.s{number}")]


def _all(trees: list[Tree], path: str) -> list[Any]:
    return [build(each, f"{path}.{number}") for number, each in enumerate(trees)]


def _leaf(given: dict[str, Any], path: str) -> Any:
    does = _with_ids(given["does"], path) | {"name": path}
    task = truth_tasks.app.tasks[f"{truth_tasks.__name__}.{given['task']}"]
    found = task.signature(kwargs={"does": does}, immutable=given.get("immutable", False))
    found.set(task_id=path, **given.get("options", {}))
    return _linked(found, given, path)


def _with_ids(does: dict[str, Any], path: str) -> dict[str, Any]:
    found = dict(does)
    if does["kind"] == "replace":
        found["by"] = dict(build(does["by"], f"{path}.r"))
    if does["kind"] == "send":
        found["what"] = [dict(build(each, f"{path}.s{number}")) for number, each in enumerate(does["what"])]
    if does["kind"] == "retry":
        found["then"] = _with_ids(does["then"], path)
    return found


def _linked(signature: Any, given: dict[str, Any], path: str) -> Any:
    for number in range(given.get("link", 0)):
        signature.link(truth_tasks.seen.s().set(task_id=f"{path}.l{number}"))
    for word in given.get("errback", "").split():
        back = truth_tasks.on_error if word == "new" else truth_tasks.on_error_by_id
        signature.link_error(back.s())
    return signature
