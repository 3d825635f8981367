"""Records as pages: a timeline for each, and a list of all. Each page is whole in itself."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_taskservice.report.files import replace_file
from pytest_taskservice.report.lanes import picture_of
from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from pytest_taskservice.report.lanes import Band, Bar, Lane, Picture
    from pytest_taskservice.report.record import EventRecord, MismatchRecord, RunRecord

__all__ = ["render_index", "render_page", "write_pages"]

_INDEX = "index.html"
_ROW = 22
_GAP = 12
_AXIS = 28
_LINE = 13
_TICKS = 8
_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_STEPS = (*_FRACTIONS, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400)
_MOST_EVENTS = 2000


def write_pages(directory: Path) -> None:
    """Write the page of every record in ``directory`` that has none, and their index."""
    from pytest_taskservice.report.record import read

    found: list[tuple[str, RunRecord]] = []
    for path in sorted(directory.glob("*.json")):
        try:
            record = read(path)
        except (OSError, ValueError):
            # Somebody else's file, or one of another version.
            continue
        page = path.with_suffix(".html")
        if not page.exists():
            replace_file(page, render_page(record, source=path.name))
        found.append((page.name, record))
    replace_file(directory / _INDEX, render_index(found))


def render_page(record: RunRecord, *, source: str) -> str:
    """Return the page of one record; ``source`` is the name of its JSON file beside it."""
    story = record.scenario
    title = f"{story.name}[{story.case}]" if story and story.case else story.name if story else record.id
    facts = [("world", record.world), ("seed", record.seed), ("digest", record.digest)]
    facts += [*record.options.items(), ("recorded", record.recorded)]
    told = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts
        if value not in (None, "")
    )
    parts = [
        f'<p class="up"><a href="{_INDEX}">all runs</a> · <a href="{escape(source)}">JSON</a></p>',
        f"<h1>{_badge(record.outcome)} {escape(title)}</h1>",
        f'<p class="id">{escape(record.id)}</p><dl>{told}</dl>',
        *map(_mismatch, record.mismatches),
        "" if record.mismatches or not record.message else f'<p class="wrong">{escape(record.message)}</p>',
        _timeline(picture_of(record)),
        f"<h2>Replay</h2><pre class='copy'>{escape(record.replay)}</pre>" if record.replay else "",
        _scenario(story.text) if story else "",
        _events(record.events),
    ]
    return _page(title, "\n".join(part for part in parts if part))


def render_index(records: list[tuple[str, RunRecord]]) -> str:
    """Return the list of all records, each with the name of its page; what failed stands first."""
    ordered = sorted(records, key=lambda one: (one[1].outcome == "passed", one[1].id, one[1].recorded))
    failed = sum(record.outcome == "failed" for _, record in records)
    rows = "".join(
        f'<tr class="{record.outcome}"><td>{_badge(record.outcome)}</td>'
        f'<td><a href="{escape(name)}">{escape(_name(record))}</a>'
        f'<div class="id">{escape(record.message or record.id.partition("::")[0])}</div></td>'
        f"<td class='short'>{escape(record.world.partition('-seed=')[0])}</td>"
        f"<td class='number'>{'' if record.seed is None else record.seed}</td>"
        f"<td class='number'>{len(record.events)}</td>"
        f"<td class='short'>{escape(record.recorded[:19].replace('T', ' '))}</td></tr>"
        for name, record in ordered
    )
    many = f"{len(records)} run{'s' * (len(records) != 1)}"
    body = (
        f"<h1>{many}, {failed} failed</h1>"
        '<p class="filter"><input id="filter" type="search" placeholder="filter by name, world or message">'
        '<label><input id="failed" type="checkbox"> only what failed</label></p>'
        "<table><thead><tr><th></th><th>run</th><th>world</th><th class='number'>seed</th>"
        f"<th class='number'>events</th><th>recorded</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    return _page(f"{many}, {failed} failed", body)


def _name(record: RunRecord) -> str:
    return record.id.partition("::")[2].rpartition("[")[0] or record.id


def _badge(outcome: str) -> str:
    return f'<span class="badge {outcome}">{outcome}</span>'


def _mismatch(found: MismatchRecord) -> str:
    at = "" if found.at is None else f", at {found.at:.3f} s"
    subject = f"{found.run}: " if found.run else ""
    kind = "invariant" if found.invariant else "expected"
    return (
        f'<div class="wrong"><b>{escape(f"{found.path}:{found.line}:{found.column}")}</b>'
        f"<dl><dt>{kind}</dt><dd>{escape(subject + found.expected)}</dd>"
        f"<dt>got</dt><dd>{escape(subject + found.got + at)}</dd></dl></div>"
    )


def _timeline(picture: Picture) -> str:
    if not any(lane.bars for lane in picture.lanes):
        return ""
    places: dict[str, tuple[int, int]] = {}
    height = _AXIS
    for lane in picture.lanes:
        places[lane.name] = (height, lane.rows * _ROW)
        height += lane.rows * _ROW + _GAP
    # Two lines, for the names of faults that follow each other closely.
    height += 2 * _LINE * bool(picture.bands)
    labels = "".join(_label_of(lane, *places[lane.name]) for lane in picture.lanes)
    return (
        '<div class="zoom"><label>zoom <input id="zoom" type="range" min="0" max="6" step="0.1" value="0">'
        '</label><span id="told"></span></div>'
        f'<div class="time" style="height:{height}px"><div class="labels">{labels}</div>'
        f'<div class="scroll"><svg id="line" width="100%" height="{height}" role="img">'
        f"{''.join(_drawn(picture, places, height))}</svg></div></div>"
    )


def _label_of(lane: Lane, top: int, height: int) -> str:
    more = f"<i>+{lane.left_out} more</i>" if lane.left_out else ""
    return f'<div style="top:{top}px;height:{height}px">{escape(lane.name)}{more}</div>'


def _drawn(picture: Picture, places: dict[str, tuple[int, int]], height: int) -> Iterator[str]:
    whole = (_AXIS, height - _AXIS)
    yield from _axis(picture.end, height)
    for top, size in places.values():
        yield f'<rect class="lane" x="0" width="100%" y="{top - 4}" height="{size + 6}" rx="4"/>'
    faults = 0
    for band in picture.bands:
        if band.place:
            yield _band(band, picture.end, *places.get(band.place, whole))
        else:
            yield _band(band, picture.end, *whole, lift=_LINE * (faults % 2))
            faults += 1
    for lane in picture.lanes:
        yield from (_bar(bar, places[lane.name][0], picture.end) for bar in lane.bars)


def _bar(bar: Bar, top: int, whole: float) -> str:
    width = 100 * (bar.end - bar.start) / whole
    took = format_duration(round(bar.end - bar.start, 3))
    said = escape(f"{bar.text}: {bar.start:.3f} to {bar.end:.3f} s ({took})")
    # The shortest is still seen.
    box = f'x="{100 * bar.start / whole:.4f}%" y="{top + bar.row * _ROW}" width="{max(width, 0.35):.4f}%"'
    text = f'<text x="4" y="{_ROW - 9}">{escape(_label(bar))}</text>' if width > 0.35 else ""
    return (
        f'<svg {box} height="{_ROW - 3}" class="bar" data-run="{escape(bar.run)}" data-told="{said}">'
        f'<title>{said}</title><rect class="{escape(bar.kind)}" width="100%" height="100%" rx="3"/>'
        f"{text}</svg>"
    )


def _label(bar: Bar) -> str:
    # Of a workflow run it is the status that counts.
    return bar.text.replace(" is ", " ") if bar.kind.startswith("is-") else bar.text.partition(" ")[0]


def _band(band: Band, whole: float, top: int, height: int, *, lift: int = 0) -> str:
    said = escape(f"{band.text}: {band.start:.3f} to {band.end:.3f} s")
    x, width = 100 * band.start / whole, max(100 * (band.end - band.start) / whole, 0.15)
    y = top + height - 3 - lift
    label = f'<text class="fault" x="{x:.4f}%" dx="3" y="{y}">{escape(band.text)}</text>'
    return (
        f'<rect class="band" x="{x:.4f}%" width="{width:.4f}%" y="{top}" height="{height}" '
        f'data-told="{said}"><title>{said}</title></rect>{label}'
    )


def _axis(whole: float, height: int) -> Iterator[str]:
    days = 86_400 * ceil(whole / 86_400 / _TICKS)
    step = next((step for step in _STEPS if whole / step <= _TICKS), days)
    for number in range(int(whole / step) + 1):
        at = number * step
        x = 100 * at / whole
        shown = format_duration(round(at, 3))
        yield f'<line class="tick" x1="{x:.3f}%" x2="{x:.3f}%" y1="{_AXIS - 8}" y2="{height}"/>'
        yield f'<text class="tick" x="{x:.3f}%" dx="3" y="{_AXIS - 14}">{shown}</text>'


def _scenario(text: str) -> str:
    return f"<h2>What was played</h2><pre class='copy'>{escape(text)}</pre>"


def _events(events: list[EventRecord]) -> str:
    rows = "".join(
        f'<tr data-run="{escape(event.run)}"><td class="number">{event.at:.3f}</td>'
        f"<td>{escape(event.worker or 'test')}</td><td>{escape(event.name or event.task or event.run)}</td>"
        f"<td>{escape(event.kind)}{f', attempt {event.attempt}' if event.attempt > 1 else ''}</td>"
        f"<td class='id'>{escape(', '.join(f'{key} {value}' for key, value in event.detail.items())[:200])}"
        "</td></tr>"
        for event in events[:_MOST_EVENTS]
    )
    more = len(events) - _MOST_EVENTS
    rest = f"<p>and {more} more, in the JSON</p>" if more > 0 else ""
    head = "<tr><th class='number'>time</th><th>place</th><th>run</th><th>event</th><th></th></tr>"
    return f"<h2>What happened</h2><table><thead>{head}</thead><tbody>{rows}</tbody></table>{rest}"


def _page(title: str, body: str) -> str:
    here = Path(__file__).parent
    style, script = (here.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body>{body}\n"
        f"<script>\n{script}</script></body></html>\n"
    )
