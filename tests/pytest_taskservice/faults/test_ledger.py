"""What the processes of a real world tell each other: by files, since any of them may be killed."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.drivers.ledger import Ledger, Strike

if TYPE_CHECKING:
    from pathlib import Path

# Tells two things, and dies in the middle of a third.
PROGRAM = """
import os, sys
from pathlib import Path
from pytest_taskservice.drivers.ledger import Ledger

journal = Ledger(Path(sys.argv[1])).journal("worker1")
journal.write({"said": 1})
if os.fork() == 0:
    journal.write({"said": 2})
    os._exit(0)
os.wait()
os.write(journal._descriptor, b'{"said": ')
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """An empty one."""
    return Ledger(tmp_path)


def test_what_was_told_outlives_who_told_it(ledger: Ledger) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, str(ledger.directory)], check=False, timeout=30)

    assert list(ledger.records()) == [{"said": 1}, {"said": 2}]


def test_a_strike_happens_as_often_as_it_may_whoever_makes_it(ledger: Ledger) -> None:
    strike = Strike(id=1, kind="kill", times=3)
    others = [Ledger(ledger.directory) for _ in range(8)]

    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda other: other.claim(strike, worker="w"), others))

    assert sum(claimed) == 3
    assert len(ledger.claims(strike.id)) == 3
    assert ledger.is_spent(strike)


def test_one_without_bound_is_never_spent(ledger: Ledger) -> None:
    strike = Strike(id=1, kind="kill", times=None)

    assert all(ledger.claim(strike) for _ in range(5))
    assert not ledger.is_spent(strike)


def test_what_is_armed_is_seen_by_all_and_nothing_once_it_is_not(ledger: Ledger) -> None:
    other = Ledger(ledger.directory)
    strike = Strike(id=1, kind="kill", when="started")

    assert other.armed("kill") == ()
    ledger.arm([strike])
    assert other.armed("kill", "lose_child") == (strike,)
    assert other.armed("slow") == ()
    ledger.arm([])
    assert other.armed("kill") == ()


def test_held_messages_come_by_their_time_and_clearing_forgets_all(ledger: Ledger) -> None:
    ledger.journal("worker1").write({"said": 1})
    ledger.claim(Strike(id=1, kind="kill"))
    ledger.hold("celery", "late", 20.0)
    ledger.hold("celery", "soon", 10.0)

    assert [(held.raw, held.due) for held in ledger.held()] == [("soon", 10.0), ("late", 20.0)]
    ledger.clear()

    assert (list(ledger.records()), ledger.claims(1), ledger.held()) == ([], [], [])
