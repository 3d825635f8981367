"""Stories from files of others: whoever can read a kind of file offers it as an entry point of `GROUP`.

The runtime knows none of them. The object at the entry point is called with the path, and returns a list of
`Story`; a mistake in the file is a `ValueError` whose message says where.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from taskservice.load.calls import Story

__all__ = ["GROUP", "read_story"]

GROUP: Final = "taskservice.load_stories"


def read_story(path: Path, name: str | None = None) -> Story:
    """Return the story of a file, the one called ``name`` if it has several."""
    if not path.is_file():
        raise ConfigurationError(f"no file {path}")

    readers = entry_points(group=GROUP)
    if not readers:
        raise ConfigurationError(
            "nothing that is installed reads scenario files: pip install 'taskservice[pytest]'"
        )
    found: list[Story] = []
    for reader in readers:
        try:
            read: Any = reader.load()
            found += read(path)
        except ImportError as error:
            raise ConfigurationError(
                f"reading scenario files takes more: pip install 'taskservice[pytest]' ({error})"
            ) from error
        except ValueError as error:
            raise ConfigurationError(f"{error}") from error
    return _chosen(found, path, name)


def _chosen(found: list[Story], path: Path, name: str | None) -> Story:
    names = [story.name for story in found]
    if name is not None:
        matching = [story for story in found if story.name == name]
        if not matching:
            raise ConfigurationError(f"{path} has no scenario {name!r}; it has: {', '.join(names)}")
        return matching[0]
    if len(found) != 1:
        raise ConfigurationError(
            f"{path} has {len(found)} scenarios; choose one with --case: {', '.join(names)}"
        )
    return found[0]
