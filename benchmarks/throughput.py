"""How fast runs are sent and collected, beside raw Celery, bare AnyIO and other task queues.

Starts one Redis and one real worker (prefork, two processes), and ends them. Every round measures each
way once, one after the other, so that whatever else the machine does hits them alike; figures are
medians over the rounds with their range, ratios are medians of the rounds' own ratios.

    python -m benchmarks.throughput --rounds 5 --json figures.json --plot docs/throughput.svg

The other queues come with the extra ``bench``; what is not installed is left out, and that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import anyio

from benchmarks.figures import Comparison, Spread
from benchmarks.in_process import InProcess
from benchmarks.memory import measure_memory
from benchmarks.noops import NOWHERE
from benchmarks.on_celery import COLLECTED, PACK, OnCelery
from benchmarks.peers import REDIS_URL, installed_peers, measure_peer
from benchmarks.plot import draw
from benchmarks.processes import running
from pytest_taskservice.redis import RedisRequest, acquire
from taskservice import Settings, create_app, read_heartbeats

if TYPE_CHECKING:
    from celery import Celery

    from benchmarks.peers import Peer

PACKED = f"taskservice, {PACK} a message"
SINGLE = "taskservice"
RAW = "Celery"


class Rounds:
    """All that is measured, round after round; without an app, what needs no broker."""

    def __init__(self, app: Celery | None, peers: list[Peer]) -> None:
        self._app = app
        self._peers = peers
        self._celery = None if app is None else OnCelery(app)
        self._local = InProcess()
        self._single = Comparison(
            name=f"{COLLECTED:,} sent and collected", ours="launch_many", theirs="delay and get", aim=1.4
        )
        self._packed = Comparison(
            name=f"{COLLECTED:,} sent and collected, {PACK} a message",
            ours="launch_many",
            theirs=f"best of {', '.join(peer.name for peer in peers)}",
            aim=3,
        )
        self.collected: dict[str, list[float]] = {}

    def comparisons(self) -> list[Comparison]:
        on_celery = [] if self._celery is None else [*self._celery.comparisons(), self._single, self._packed]
        return [each for each in [*on_celery, *self._local.comparisons()] if each.pairs]

    def run(self, number: int) -> None:
        """Measure every way once."""
        if self._app is not None and self._celery is not None:
            self._run_on(self._app, self._celery, number)
        self._local.round()

    def _run_on(self, app: Celery, celery: OnCelery, number: int) -> None:
        # What was only sent would make the server larger from round to round.
        with app.connection_for_write() as connection:
            queues: Any = app.amqp.queues
            queues[NOWHERE](connection.default_channel).purge()
        anyio.run(celery.round, number)
        found = {peer.name: measure_peer(peer, COLLECTED) for peer in self._peers}
        self._single.add(celery.single, found[RAW])
        self._packed.add(celery.packed, max(found.values()))
        found = {SINGLE: celery.single, PACKED: celery.packed, **found}
        for name, figure in found.items():
            self.collected.setdefault(name, []).append(figure)


def measure(rounds: int, *, broker: bool) -> tuple[Rounds, list[str]]:
    """Start everything, warm up by one round that does not count, measure, end everything."""
    with ExitStack() as stack:
        app, peers, missing = _started(stack) if broker else (None, [], [])
        _say("warming up")
        Rounds(app, peers).run(0)

        found = Rounds(app, peers)
        for number in range(rounds):
            _say(f"round {number + 1} of {rounds}")
            found.run(number)
        return found, missing


def _started(stack: ExitStack) -> tuple[Celery, list[Peer], list[str]]:
    server = acquire(RedisRequest(choice="server"))
    stack.callback(server.close)
    os.environ[REDIS_URL] = server.url
    peers, missing = installed_peers()
    settings = Settings(redis_url=server.url)
    stack.enter_context(worker(settings))
    return create_app(settings), peers, missing


def worker(settings: Settings, *, imports: str = "benchmarks.noops") -> AbstractContextManager[None]:
    """One real worker with two processes, from its first heartbeat on."""
    code = "from taskservice.cli import main; main()"
    argv = [sys.executable, "-c", code, "worker", "-P", "prefork", "-c", "2", "--loglevel", "WARNING"]
    return running(
        [argv],
        lambda: read_heartbeats(settings.redis_url, settings.key_prefix),
        TASKSERVICE_REDIS_URL=settings.redis_url,
        TASKSERVICE_IMPORTS=imports,
    )


def show(found: Rounds, missing: list[str], memory: dict[str, Any] | None) -> None:
    """Print the table."""
    print(f"{'':46} {'ours':>42} {'theirs':>50} {'ratio':>20} {'aim':>6}")
    for each in found.comparisons():
        ours, theirs = each.spreads()
        sides = f"{f'{each.ours} {ours}':>42} {f'{each.theirs} {theirs}':>50}"
        verdict = "" if each.reached else "  missed"
        print(f"{f'{each.name}, {each.unit}':46} {sides} {each.ratio!s:>20} {each.aim:>6}{verdict}")
    for name, figures in found.collected.items():
        print(f"{f'{COLLECTED:,} sent and collected, /s':46} {f'{name} {Spread.of(figures)}':>42}")
    if memory is not None:
        seen = ", ".join(f"{int(runs):,}: {mb} MB" for runs, mb in memory["resident_mb"].items())
        verdict = "flat" if memory["flat"] else "grows"
        print(f"resident after in-process runs: {seen}; {verdict} ({memory['growth_mb']:+} MB)")
    for name in missing:
        print(f"{name} is not installed, so its row is left out")


def as_json(found: Rounds, missing: list[str], memory: dict[str, Any] | None, rounds: int) -> dict[str, Any]:
    """Return everything that was measured, and on what."""
    return {
        "rounds": rounds,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "comparisons": [each.as_json() for each in found.comparisons()],
        "collected": {name: Spread.of(each).as_json() for name, each in found.collected.items()},
        "memory": memory,
        "left_out": missing,
    }


def main() -> None:
    """Measure, print, write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="needs matplotlib; .svg or .png")
    parser.add_argument("--memory", type=int, default=1_000_000, metavar="RUNS", help="0 leaves it out")
    parser.add_argument("--in-process", action="store_true", help="only what needs no broker")
    options = parser.parse_args()
    if options.in_process and options.plot:
        parser.error("--plot shows what needs a broker; leave --in-process out")
    signal.signal(signal.SIGTERM, _leave)

    rounds = max(1, options.rounds)
    found, missing = measure(rounds, broker=not options.in_process)
    memory = None
    if options.memory:
        _say("looking at memory")
        memory = measure_memory(options.memory)
    show(found, missing, memory)
    if options.json:
        told = json.dumps(as_json(found, missing, memory, rounds), indent=2)
        options.json.write_text(told + "\n", encoding="utf-8")
    if options.plot:
        ways = {name: Spread.of(figures) for name, figures in found.collected.items()}
        draw(ways, {SINGLE, PACKED}, f"{COLLECTED:,} no-ops sent and collected, a second", options.plot)


def _leave(*_: object) -> NoReturn:
    # So that everything is ended on the way out.
    raise SystemExit(1)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
