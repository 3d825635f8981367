"""Everything that docs/performance.md says, measured, printed, drawn and written there by one command.

    python -m benchmarks.performance --rounds 5 --write

Starts a Redis of its own and the workers of each task queue, and ends them. Every round measures each way
once, one after the other; figures are medians of the rounds with their range. ``--write`` puts the tables
between their marks in docs/performance.md, the plots and performance.json beside it. It needs the extras
``bench``, ``load`` and ``pytest``; arq wants an older redis-py, so give it an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Spread
from benchmarks.peers import REDIS_URL
from benchmarks.processes import ROOT
from taskservice.load.guard import Children
from taskservice.load.plots import Bars, draw_bars
from taskservice.load.servers import start_redis

PAGE: Final = ROOT / "docs" / "performance.md"
FOLDER: Final = ROOT / "docs" / "performance"
OURS: Final = "#2a9d8f"
OTHERS: Final = "#9aa5b1"
HARNESS: Final = {
    "first_result": ("the first result of a session", "s"),
    "per_test": ("a test with a result", "ms"),
}
PARTS: Final = ("peers", "harness", "generator")

Rounds = Mapping[str, Mapping[str, Spread]]


def measure(parts: list[str], rounds: int) -> dict[str, dict[str, dict[str, Spread]]]:
    """Return, of each part, the spread of every figure of every way."""
    with _redis() as url:
        from benchmarks.comparison import all_peers, measure_round
        from benchmarks.generator import measure_generator
        from benchmarks.harness import measure_ways, write_project

        peers, missing = all_peers()
        for name in missing:
            print(f"{name} is not installed, so it is left out")
        with tempfile.TemporaryDirectory() as name:
            write_project(Path(name))
            runs: dict[str, Callable[[], dict[str, dict[str, float]]]] = {
                "peers": lambda: measure_round(peers),
                "harness": lambda: measure_ways(Path(name), f"{url}"),
                "generator": lambda: {"load": measure_generator(url)},
            }
            found: dict[str, list[dict[str, dict[str, float]]]] = {part: [] for part in parts}
            for number in range(rounds + 1):
                for part in parts:
                    print(
                        f"{part}: {f'round {number} of {rounds}' if number else 'warming up'}",
                        file=sys.stderr,
                    )
                    found[part].append(runs[part]())
    # The first round compiles and warms.
    return {part: _spreads(each[1:]) for part, each in found.items()}


def show(found: Mapping[str, Rounds]) -> str:
    """Return the tables as text."""
    return "\n\n".join(f"{part}\n{table(part, rounds)}" for part, rounds in found.items())


def table(part: str, rounds: Rounds) -> str:
    """Return one table in Markdown: a row for each way, a column for each figure."""
    from benchmarks.comparison import FIGURES

    if part == "generator":
        load = rounds["load"]
        rows = [[name, f"{load[name]}/s"] for name in load if name != "share"]
        share = load["share"]
        rows.append(["share", f"{share.median:.0%} ({share.least:.0%}-{share.most:.0%})"])
        return _markdown(["", "sent"], rows)

    titles = FIGURES if part == "peers" else HARNESS
    head = ["", *(f"{title}, {unit}" for title, unit in titles.values())]
    return _markdown(head, [[way, *(str(each[key]) for key in titles)] for way, each in rounds.items()])


def draw(found: Mapping[str, Rounds]) -> dict[str, str]:
    """Return the plots by the names of their files."""
    from benchmarks.comparison import FIGURES

    plots = {}
    for part, titles in (("peers", FIGURES), ("harness", HARNESS)):
        for key, (title, unit) in titles.items():
            if part in found:
                rows = _bars(found[part], key, ascending=unit != "/s")
                plots[f"{part}-{key}"] = draw_bars(f"{title}, {unit}", rows, show=_short)
    return plots


def write(found: Mapping[str, Rounds], rounds: int) -> None:
    """Put everything where the documentation shows it."""
    text = PAGE.read_text()
    shown = {part: f"\n{table(part, each)}\n\n" for part, each in found.items()}
    for mark, content in {**shown, "machine": _machine(rounds)}.items():
        before, _, rest = text.partition(f"<!-- {mark} -->")
        _, end, after = rest.partition(f"<!-- /{mark} -->")
        if not end:
            raise SystemExit(f"{PAGE} has no place for {mark}")
        text = f"{before}<!-- {mark} -->{content}{end}{after}"
    PAGE.write_text(text)
    FOLDER.mkdir(exist_ok=True)
    for name, plot in draw(found).items():
        (FOLDER / f"{name}.svg").write_text(plot)
    path = FOLDER / "performance.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **as_json(found, rounds)}, indent=2) + "\n")


def as_json(found: Mapping[str, Rounds], rounds: int) -> dict[str, Any]:
    """Return everything that was measured, and on what."""
    return {
        "machine": _machine(rounds),
        **{
            part: {way: {key: spread.as_json() for key, spread in each.items()} for way, each in ways.items()}
            for part, ways in found.items()
        },
    }


@contextmanager
def _redis() -> Iterator[str]:
    with Children() as children:
        url, _, _ = start_redis(children)
        os.environ[REDIS_URL] = url
        yield url


def _spreads(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, Spread]]:
    return {
        way: {key: Spread.of([each[way][key] for each in rounds]) for key in figures}
        for way, figures in rounds[0].items()
    }


def _bars(rounds: Rounds, key: str, *, ascending: bool) -> list[Bars]:
    order = sorted(rounds, key=lambda way: rounds[way][key].median, reverse=not ascending)
    return [
        Bars(
            name=way,
            colour=OURS if way.startswith("taskservice") else OTHERS,
            median=rounds[way][key].median,
            least=rounds[way][key].least,
            most=rounds[way][key].most,
        )
        for way in order
    ]


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _machine(rounds: int) -> str:
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}; {rounds} rounds, "
        f"load {load:.1f} at the end"
    )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"default: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    # The workers are to end with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found = measure(asked.parts or list(PARTS), asked.rounds)
    print(show(found))
    if asked.json:
        asked.json.write_text(json.dumps(as_json(found, asked.rounds), indent=2) + "\n")
    if asked.write:
        write(found, asked.rounds)


if __name__ == "__main__":
    main()
