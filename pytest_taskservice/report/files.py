"""Files that others may read at any time: whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

__all__ = ["record_path", "replace_file", "shown_path"]

_UNSAFE = re.compile(r"[^\w.=-]+", re.ASCII)
_LONGEST = 120


def record_path(directory: Path, nodeid: str) -> Path:
    """Return a path that no other record has, in this session or another one."""
    stem = _UNSAFE.sub("_", nodeid).strip("._")[-_LONGEST:]
    return directory / f"{stem}-{secrets.token_hex(4)}.json"


def shown_path(path: Path) -> str:
    """Return ``path`` as it is shortest where pytest was started."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def replace_file(path: Path, text: str) -> None:
    """Write ``text`` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:60]}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
