"""What is stored of the calls in a pack that succeed, made from what Celery made of the first one.

They differ in a few fields. The others are encoded once, and a template is proved on the result it was taken
from: what it makes of that one must be what Celery made of it, or there is no template.
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from kombu.utils.json import dumps

if TYPE_CHECKING:
    from celery.app.task import Context

__all__ = ["SuccessTemplate", "success_template"]

DATE_SECONDS: Final = 0.001
"""How long an end has the date of the one before: Celery's takes longer than a short call."""
_DIFFERENT: Final = frozenset({"result", "children", "date_done", "args", "kwargs", "task_id"})


def success_template(
    backend: Any, request: Context, meta: dict[str, Any], encoded: Any
) -> SuccessTemplate | None:
    """Return the template for calls like that of ``request``, whose ``meta`` Celery has ``encoded``."""
    template = SuccessTemplate(backend, meta)
    made = template.fill(request, meta["task_id"], meta["result"], date=meta["date_done"])
    return template if made == encoded else None


class SuccessTemplate:
    """One stored result, from which others are made."""

    def __init__(self, backend: Any, meta: dict[str, Any]) -> None:
        self._backend = backend
        self._fields: list[tuple[str, str]] = []
        self._date = ""
        self._date_until = 0.0
        text = "{"
        for name, value in meta.items():
            text += f"{dumps(name)}: "
            if name in _DIFFERENT:
                self._fields.append((text, name))
                text = ", "
            else:
                text += f"{dumps(value)}, "
        self._end = text.removesuffix(", ") + "}"

    def fill(self, request: Context, run_id: str, result: Any, *, date: str | None = None) -> str:
        """Return what is stored of the call of ``request``, which returned ``result``."""
        found = {
            "result": result,
            "children": self._backend.current_task_children(request),
            "args": request.args,
            "kwargs": request.kwargs,
        }
        parts: list[str] = []
        for text, name in self._fields:
            parts.append(text)
            if name in found:
                parts.append(_encode(found[name]))
            else:
                parts.append(encode_basestring_ascii(run_id if name == "task_id" else date or self._now()))
        return "".join(parts) + self._end

    def _now(self) -> str:
        now = monotonic()
        if now > self._date_until:
            self._date_until = now + DATE_SECONDS
            self._date = self._backend.app.now().isoformat()
        return self._date


def _encode(value: Any) -> str:
    if value is None:
        return "null"
    if not value and type(value) in {list, dict}:
        return "[]" if type(value) is list else "{}"
    text: str = dumps(value)
    return text
