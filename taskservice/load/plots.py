"""Plots as SVG, by hand: a few lines over time are not worth a library. Legible on light and on dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

__all__ = ["Bars", "Line", "draw_bars", "draw_lines"]

WIDTH: Final = 860
LEFT: Final = 64
RIGHT: Final = 16
TOP: Final = 44
BOTTOM: Final = 30
INK: Final = "#71808f"
GRID: Final = "#71808f33"
FONT: Final = "font-family='system-ui,-apple-system,Segoe UI,Roboto,sans-serif'"
MOST_TICKS: Final = 5
NAME_WIDTH: Final = 7.0

Show = Callable[[float], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line; ``None`` leaves a gap. ``filled`` is for what piles up, ``dashed`` for what was asked for."""

    name: str
    colour: str
    values: Sequence[float | None]
    filled: bool = False
    dashed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """One row of bars: a value with the least and the most that was seen."""

    name: str
    colour: str
    median: float
    least: float
    most: float


def draw_lines(  # noqa: PLR0913 - one plot, and all of it
    title: str,
    instants: Sequence[float],
    lines: Sequence[Line],
    *,
    show: Show,
    height: int = 230,
    logarithmic: bool = False,
) -> str:
    """Return a plot of ``lines`` over ``instants``, in seconds; ``show`` writes a value of the left axis."""
    known = [value for line in lines for value in line.values if value is not None and value > 0]
    scale = _Scale(known, height, logarithmic=logarithmic)
    span = max(instants[-1] - instants[0], 1) if instants else 1

    def across(instant: float) -> float:
        return LEFT + (instant - instants[0]) / span * (WIDTH - LEFT - RIGHT)

    parts = [_head(title, height), *_grid(scale, show), *_times(span, height)]
    for line in lines:
        points = [
            (across(at), None if value is None else scale.place(value))
            for at, value in zip(instants, line.values, strict=True)
        ]
        parts += _runs(line, points, scale.bottom)
    return "".join([*parts, _legend(lines, title), "</svg>\n"])


def draw_bars(title: str, rows: Sequence[Bars], *, show: Show) -> str:
    """Return a bar for each of ``rows``, with its range."""
    height = TOP + 30 * len(rows) + 8
    left = 20 + max((NAME_WIDTH * len(row.name) for row in rows), default=0.0)
    most = max((row.most for row in rows), default=1.0) or 1.0
    wide = WIDTH - left - 110
    parts = [_head(title, height)]
    for index, row in enumerate(rows):
        top, x = TOP + 30 * index, row.median / most * wide
        middle = top + 10
        low, high = left + row.least / most * wide, left + row.most / most * wide
        text = f"y='{middle + 4}' font-size='13' fill='{INK}'"
        beside = max(left + x, high) + 8
        parts += [
            f"<text x='{left - 10:.0f}' text-anchor='end' {text}>{escape(row.name)}</text>",
            f"<rect x='{left:.0f}' y='{top}' width='{max(x, 1):.1f}' height='20' fill='{row.colour}'/>",
            f"<path d='M{low:.1f} {middle}H{high:.1f}' stroke='{INK}' stroke-width='1.5'/>",
            f"<text x='{beside:.1f}' {text}>{escape(show(row.median))}</text>",
        ]
    return "".join([*parts, "</svg>\n"])


class _Scale:
    """From values to heights."""

    def __init__(self, known: Sequence[float], height: int, *, logarithmic: bool) -> None:
        self.top, self.bottom = TOP, height - BOTTOM
        self._low = self._high = 0.0
        self._logarithmic = logarithmic and bool(known)
        if self._logarithmic:
            self._low = math.floor(math.log10(min(known)))
            self._high = max(math.ceil(math.log10(max(known))), self._low + 1)
            self.ticks = [10.0**power for power in range(self._low, self._high + 1)]
        else:
            step = _nice(max(known, default=1.0) / MOST_TICKS)
            count = max(1, math.ceil(max(known, default=1.0) / step - 1e-9))
            self.ticks = [step * index for index in range(count + 1)]
            self._high = self.ticks[-1]

    def place(self, value: float) -> float:
        """Return how far down ``value`` is; on a logarithmic scale 0 is at the bottom."""
        if self._logarithmic:
            value = max(math.log10(value), self._low) if value > 0 else self._low
        share = (value - self._low) / (self._high - self._low)
        return self.bottom - share * (self.bottom - self.top)


def _nice(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(factor * size for factor in (1, 2, 5, 10) if factor * size >= step * 0.999)


def _head(title: str, height: int) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' {FONT} "
        f"aria-label='{escape(title, quote=True)}'>"
        f"<text x='0' y='18' font-size='15' font-weight='600' fill='{INK}'>{escape(title)}</text>"
    )


def _grid(scale: _Scale, show: Show) -> list[str]:
    parts = []
    for tick in scale.ticks:
        y = scale.place(tick)
        parts.append(
            f"<path d='M{LEFT} {y:.1f}H{WIDTH - RIGHT}' stroke='{GRID}'/>"
            f"<text x='{LEFT - 8}' y='{y + 4:.1f}' text-anchor='end' font-size='11' fill='{INK}'>"
            f"{escape(show(tick))}</text>"
        )
    return parts


def _times(span: float, height: int) -> list[str]:
    step = max(1.0, _nice(span / 8))
    parts = []
    for index in range(int(span / step) + 1):
        x = LEFT + index * step / span * (WIDTH - LEFT - RIGHT)
        parts.append(
            f"<text x='{x:.1f}' y='{height - 10}' text-anchor='middle' font-size='11' fill='{INK}'>"
            f"{index * step:g} s</text>"
        )
    return parts


def _runs(line: Line, points: Sequence[tuple[float, float | None]], bottom: float) -> list[str]:
    """Return the line as a path, broken where nothing is known."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    parts = []
    for run in filter(None, runs):
        if len(run) == 1:
            parts.append(f"<circle cx='{run[0][0]:.1f}' cy='{run[0][1]:.1f}' r='2' fill='{line.colour}'/>")
            continue
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in run)
        if line.filled:
            closed = f"{path}L{run[-1][0]:.1f} {bottom}L{run[0][0]:.1f} {bottom}Z"
            parts.append(f"<path d='{closed}' fill='{line.colour}' fill-opacity='.18'/>")
        dashes = " stroke-dasharray='5 4'" if line.dashed else ""
        style = f"fill='none' stroke='{line.colour}' stroke-width='2' stroke-linejoin='round'{dashes}"
        parts.append(f"<path d='{path}' {style}/>")
    return parts


def _legend(lines: Sequence[Line], title: str) -> str:
    parts: list[str] = []
    x = 30 + 8.2 * len(title)
    for line in lines:
        dashes = " stroke-dasharray='5 4'" if line.dashed else ""
        parts.append(
            f"<path d='M{x:.0f} 14h18' stroke='{line.colour}' stroke-width='3'{dashes}/>"
            f"<text x='{x + 24:.0f}' y='18' font-size='12' fill='{INK}'>{escape(line.name)}</text>"
        )
        x += 46 + 6.6 * len(line.name)
    return "".join(parts)
