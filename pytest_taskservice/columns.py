"""A table of what happened: a line an event, a column for each place where things happen."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["columns", "printable", "shortened"]

_MOST_COLUMNS = 4
# Control characters but tab and newline, marks that turn the direction of text, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def columns(
    cells: Sequence[tuple[str, str, str]], *, first: str, here: str, width: int | None = None
) -> list[str]:
    """Return the lines of a table of (instant, place, text), its title included.

    ``first`` is the title of the instants, and ``here`` the place whose column is the leftmost. Where there
    are many places, or the columns are wider than ``width``, each line names its own instead.
    """
    places = sorted({place for _, place, _ in cells}, key=lambda name: (name != here, name))
    lead = max([len(first), 7, *(len(at) for at, _, _ in cells)]) + 2
    widths = {
        name: max(len(name), *(len(text) for _, place, text in cells if place == name)) for name in places
    }
    whole = lead + sum(widths.values()) + 2 * (len(places) - 1)
    if len(places) > _MOST_COLUMNS or (width is not None and whole > width):
        wide = max(len("worker"), *map(len, places))
        lines = [(first, "worker", ""), *cells]
        return [f"{at:<{lead}}{place:<{wide}}  {text}" for at, place, text in lines]

    rows = [(first, dict(zip(places, places, strict=True)))]
    rows += [(at, {place: text}) for at, place, text in cells]
    return [
        f"{at:<{lead}}" + "  ".join(f"{row.get(name, ''):<{widths[name]}}" for name in places)
        for at, row in rows
    ]


def printable(text: str) -> str:
    """Return ``text`` with escapes for what would act on a terminal, or that no file could hold."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shortened(text: str) -> str:
    """Return ``text`` on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:60]}..."
