"""Schemas: what an answer must look like, as its asker says it and as its client is told."""

from __future__ import annotations

from json import dumps
from typing import TYPE_CHECKING, Any

from taskservice.errors import WorkflowMisuseError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["AnswerSchema"]


class AnswerSchema:
    """A pydantic model, or any type that a `pydantic.TypeAdapter` takes; ``None`` is any JSON."""

    def __init__(self, schema: Any) -> None:
        self._adapter = None if schema is None else _adapter_of(schema)

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """The JSON Schema that clients get."""
        return None if self._adapter is None else self._adapter.json_schema()

    def check(self, value: Any) -> tuple[Any, str]:
        """Return the value as the function gets it, and what is wrong with it or ``""``.

        What is wrong names places and rules, and never shows what was answered.
        """
        if self._adapter is None:
            return value, ""

        from pydantic import ValidationError

        try:
            return self._adapter.validate_json(dumps(value)), ""
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            return None, "; ".join(f"{_place(each['loc'])}{each['msg']}" for each in found)


def _adapter_of(schema: Any) -> TypeAdapter[Any]:
    from pydantic import PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(schema)
    except PydanticUserError as error:
        raise WorkflowMisuseError(
            f"give ask a schema that pydantic knows, a model or a type; got {schema!r}"
        ) from error


def _place(location: tuple[Any, ...]) -> str:
    return f"{'.'.join(str(part) for part in location)}: " if location else ""
