"""Whether a test relies on its app's own eager mode, in worlds that send its tasks to workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["Eagerness"]

_SETTING = "task_always_eager"
_HINT = (
    "{who} task_always_eager, where a task has ended when delay() returns; in this world it has only been "
    "sent: a test that expects what a task does waits for it, with get() or "
    "taskservice_driver.settle(timeout=10); celery-eager keeps to the setting"
)


class Eagerness:
    """What an app says of itself; made before the world's own settings come over it."""

    def __init__(self, app: Celery) -> None:
        conf: Any = app.conf
        self._always = bool(conf.task_always_eager)
        self._meanwhile = False
        self._names: tuple[str, ...] = tuple(dict.fromkeys(conf._to_keys(_SETTING)))  # noqa: SLF001 - tested
        # Objects, such as Django's settings, may be changed in a test; and Celery asks them each time.
        self._live = [each for each in conf.maps[1:] if type(each) is not dict]

    def look(self) -> None:
        """Look once more, when a task is sent."""
        if not self._always and any(each.get(name) for each in self._live for name in self._names):
            self._meanwhile = True

    @property
    def hint(self) -> str | None:
        """What a failing test should know, in whole words."""
        if self._always:
            return _HINT.format(who="the app's own settings have")
        return _HINT.format(who="the test sent a task while it set") if self._meanwhile else None
