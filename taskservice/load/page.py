"""The report as files: a page that needs nothing else, its plots, JSON and CSV."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Final

from taskservice.load.gates import STATISTICS
from taskservice.load.plots import Line, draw_lines
from taskservice.load.quantities import show_count, show_span
from taskservice.load.report import PART_TITLES, summary_csv, timeline_csv

if TYPE_CHECKING:
    from pathlib import Path

    from taskservice.load.report import Report

__all__ = ["draw_plots", "render_page", "write_report"]

GREEN: Final = "#2a9d8f"
BLUE: Final = "#3a86c8"
AMBER: Final = "#e09f3e"
RED: Final = "#d1495b"
GREY: Final = "#9aa5b1"
_STYLE: Final = """
:root{color-scheme:light dark;--ink:light-dark(#1f2933,#e4e7eb);--soft:light-dark(#5b6b7a,#9aa5b1);
--rule:light-dark(#e3e8ed,#2c353f);--ground:light-dark(#fff,#15191e)}
body{font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;max-width:900px;margin:2rem auto;
padding:0 1rem;color:var(--ink);background:var(--ground)}
h1{font-size:1.45rem;margin:0}
h2{font-size:1.05rem;margin:2rem 0 .5rem}
p.sub{color:var(--soft);margin:.2rem 0 1.2rem}
p.foot{margin-top:2rem;font-size:.85rem}
.cards{display:flex;flex-wrap:wrap;gap:.7rem;margin:0 0 1.2rem}
.card{flex:1 1 82px;border:1px solid var(--rule);border-radius:8px;padding:.5rem .7rem}
.card b{display:block;font-size:1.15rem;font-variant-numeric:tabular-nums;white-space:nowrap}
.card span{color:var(--soft);font-size:.82rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.28rem .5rem;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
th{font-weight:600;color:var(--soft);font-size:.85rem}
.ok{color:#2a9d8f}
.bad{color:#d1495b}
.plots{margin-top:1.8rem}
.plots svg{width:100%;height:auto;margin:0 0 1rem}
.banner{border-left:4px solid #d1495b;padding:.4rem .8rem;margin:0 0 1rem}
.scroll{overflow-x:auto}
ul{padding-left:1.2rem}
"""


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.html``, ``report.json``, ``summary.csv``, ``timeline.csv`` and a file for each plot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n")
    (folder / "summary.csv").write_text(summary_csv(report))
    (folder / "timeline.csv").write_text(timeline_csv(report))
    (folder / "report.html").write_text(render_page(report))
    for name, plot in draw_plots(report).items():
        (folder / f"{name}.svg").write_text(plot)


def draw_plots(report: Report) -> dict[str, str]:
    """Return the plots by the names of their files."""
    moments = report.timeline
    if not moments:
        return {}

    instants = [float(moment.at) for moment in moments]
    throughput = [
        Line(name="due", colour=GREY, values=[float(m.arrivals) for m in moments], dashed=True),
        Line(name="done", colour=GREEN, values=[float(m.done) for m in moments]),
    ]
    if any(moment.failed for moment in moments):
        throughput.append(Line(name="failed", colour=RED, values=[float(m.failed) for m in moments]))
    latency = [
        Line(name="p50", colour=GREEN, values=[m.p50 for m in moments]),
        Line(name="p95", colour=AMBER, values=[m.p95 for m in moments]),
        Line(name="p99", colour=RED, values=[m.p99 for m in moments]),
    ]
    backlog = [Line(name="under way", colour=GREY, values=[float(m.in_flight) for m in moments], dashed=True)]
    if any(moment.waiting is not None for moment in moments):
        backlog.append(Line(name="queued", colour=BLUE, values=[m.waiting for m in moments], filled=True))
    if any(moment.unacked for moment in moments):
        backlog.append(Line(name="unacknowledged", colour=AMBER, values=[m.unacked for m in moments]))
    users = [Line(name="users", colour=BLUE, values=[float(m.users) for m in moments])]
    plots = {
        "throughput": draw_lines("Runs a second", instants, throughput, show=show_count),
        "latency": draw_lines("End to end", instants, latency, show=_tick, logarithmic=True),
        "backlog": draw_lines("Backlog", instants, backlog, show=show_count),
    }
    if len({moment.users for moment in moments}) > 2:
        plots["users"] = draw_lines("Users", instants, users, show=show_count, height=130)
    return plots


def render_page(report: Report) -> str:
    """Return the page; it asks for nothing from anywhere."""
    subtitle = " · ".join([report.model, *report.stack, f"{report.elapsed:.1f} s measured"])
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(report.title)}</h1><p class='sub'>{escape(subtitle)}</p>",
        _banner(report),
        _cards(report),
        _gates(report),
        "<div class='plots'>",
        *draw_plots(report).values(),
        "</div>",
        _parts(report),
        _ends(report),
        _trials(report),
        _list("Errors", [f"{count:,} x {error}" for error, count in report.errors.items()]),
        _list("Notes", report.notes),
        _machine(report),
        "</html>\n",
    ]
    return "\n".join(filter(None, parts))


def _banner(report: Report) -> str:
    if report.ended == "done":
        return ""
    why = "interrupted: this is what was known until then" if report.ended == "interrupted" else report.died
    return f"<p class='banner'>{escape(why)}</p>"


def _cards(report: Report) -> str:
    figures = report.figures
    backlog = figures["max_backlog"]
    cards = [
        (f"{show_count(figures['throughput'])}/s", "throughput"),
        (show_span(figures["p50"]), "p50"),
        (show_span(figures["p95"]), "p95"),
        (show_span(figures["p99"]), "p99"),
        (show_count(figures["failures"]), "failures"),
        (show_count(figures["lost"]), "lost"),
        (show_count(backlog), "most queued"),
    ]
    if report.limit is not None:
        cards.insert(0, (f"{show_count(report.limit)}/s", "carried within the goal"))
    inner = "".join(f"<div class='card'><b>{value}</b><span>{name}</span></div>" for value, name in cards)
    return f"<div class='cards'>{inner}</div>"


def _gates(report: Report) -> str:
    if not report.verdicts:
        return ""
    rows = "".join(
        f"<tr><td>{escape(verdict.gate)}</td><td>{escape(verdict.found)}</td>"
        f"{_mark('passed' if verdict.passed else 'failed', good=verdict.passed)}</tr>"
        for verdict in report.verdicts
    )
    return f"<h2>Gates</h2><table><tr><th>fails if</th><th>found</th><th></th></tr>{rows}</table>"


def _mark(word: str, *, good: bool) -> str:
    return f"<td class='{'ok' if good else 'bad'}'>{word}</td>"


def _parts(report: Report) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("", "runs", *STATISTICS))
    rows = "".join(
        f"<tr><td>{PART_TITLES[row.name]}</td><td>{row.count:,}</td>"
        + "".join(f"<td>{show_span(row.spans[name])}</td>" for name in STATISTICS)
        + "</tr>"
        for row in report.parts
    )
    table = f"<div class='scroll'><table><tr>{head}</tr>{rows}</table></div>"
    return f"<h2>Parts of a run's way</h2>{table}"


def _ends(report: Report) -> str:
    titles = {"refused": "not sent", "queued": "still queued", "taken": "with a worker"}
    head = "".join(f"<th>{titles.get(name, name)}</th>" for name in report.ends)
    cells = "".join(f"<td>{count:,}</td>" for count in report.ends.values())
    due = show_count(report.figures["arrivals"])
    return f"<h2>Where all {due} runs are</h2><table><tr>{head}</tr><tr>{cells}</tr></table>"


def _trials(report: Report) -> str:
    if not report.trials:
        return ""
    rows = "".join(
        f"<tr><td>{show_count(trial['rate'])}/s</td><td>{show_count(trial['throughput'])}/s</td>"
        f"<td>{show_span(trial['p95'])}</td><td>{escape(trial['why'])}</td>"
        f"{_mark('held' if trial['held'] else 'missed', good=trial['held'])}</tr>"
        for trial in report.trials
    )
    head = "<tr><th>rate</th><th>throughput</th><th>p95</th><th>goal</th><th></th></tr>"
    return f"<h2>Trials</h2><table>{head}{rows}</table>"


def _list(title: str, items: tuple[str, ...] | list[str]) -> str:
    if not items:
        return ""
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _machine(report: Report) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    where = f"Python {machine['python']}, {machine['system']}, {machine['cores']} cores"
    text = f"{where}, load {machine['load'][0]}; {versions}"
    return f"<p class='sub foot'>{escape(text)}</p>"


def _tick(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"
