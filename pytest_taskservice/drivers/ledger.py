"""What the processes of one real world tell each other by files, so that it outlives each of them.

Events go into one journal a process, a line each: SIGKILL of a worker takes none of them with it. Strikes are
armed in one file, read by every worker, and claimed by whoever makes one: a name is given once, so a strike
that is allowed once happens once, however many workers there are. Messages that are held back lie here until
the test process delivers them.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_taskservice.simulator.celery.fault_values import Point

__all__ = ["Held", "Journal", "Ledger", "Strike"]

_ARMED = "armed.json"
_EVENTS, _CLAIMS, _HELD = "events", "claims", "held"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strike:
    """A fault that lies in wait in workers: for a run at a point of its life, or for a message."""

    id: int
    kind: str
    when: str = ""
    into: float = 0.0
    task: str = ""
    worker: str = ""
    queue: str = ""
    by: float = 0.0
    times: int | None = 1

    @property
    def point(self) -> str:
        """Where it strikes a run."""
        return self.when or Point.RUNNING


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A message that is held back until ``due``; ``key`` is the list it belongs in."""

    path: Path
    due: float
    key: str
    raw: str


class Journal:
    """One process's end of a journal; its forks write to the same."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record; it is safe once this returns."""
        os.write(self._descriptor, json.dumps(record, default=str).encode() + b"\n")


class Ledger:
    """The files of one world under ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ids = itertools.count(1)
        self._read: tuple[tuple[int, int] | None, tuple[Strike, ...]] = (None, ())
        for name in (_EVENTS, _CLAIMS, _HELD):
            (directory / name).mkdir(exist_ok=True)

    def journal(self, process: str) -> Journal:
        """Return the journal of ``process``, to be written."""
        return Journal(self.directory / _EVENTS / process)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield what all processes have told since :meth:`clear`."""
        for path in sorted((self.directory / _EVENTS).iterdir()):
            # The last line may be on its way.
            for line in path.read_bytes().split(b"\n")[:-1]:
                yield json.loads(line)

    def clear(self) -> None:
        """Forget it, with all strikes and what is held."""
        for path in (self.directory / _EVENTS).iterdir():
            os.truncate(path, 0)
        self.arm(())
        for folder in (_CLAIMS, _HELD):
            for path in (self.directory / folder).iterdir():
                path.unlink(missing_ok=True)

    # Strikes.

    def next_id(self) -> int:
        """Return a number that no strike of this world has had."""
        return next(self._ids)

    def arm(self, strikes: Iterable[Strike]) -> None:
        """Have exactly these lie in wait, in every process of the world."""
        armed = [asdict(strike) for strike in strikes]
        path = self.directory / _ARMED
        if not armed:
            path.unlink(missing_ok=True)
            return
        _write(path, json.dumps(armed))

    def armed(self, *kinds: str) -> tuple[Strike, ...]:
        """Return those of ``kinds`` that lie in wait now."""
        try:
            found = os.stat(self.directory / _ARMED)  # noqa: PTH116 - asked before every body
        except FileNotFoundError:
            return ()
        version = (found.st_mtime_ns, found.st_ino)
        if version != self._read[0]:
            with suppress(FileNotFoundError):
                data = json.loads((self.directory / _ARMED).read_text())
                self._read = (version, tuple(Strike(**each) for each in data))
        return tuple(strike for strike in self._read[1] if strike.kind in kinds)

    def claim(self, strike: Strike, **detail: Any) -> bool:
        """Take one of the times that ``strike`` may happen; ``False`` if there is none left."""
        claim = json.dumps({"at": time.time(), **detail})
        draft = self.directory / f"claim-{uuid.uuid4().hex}"
        draft.write_text(claim)
        try:
            for turn in range(strike.times) if strike.times is not None else itertools.count():
                with suppress(FileExistsError):
                    # A link, as it is there with its content or not at all.
                    os.link(draft, self._claim(strike.id, turn))
                    return True
            return False
        finally:
            draft.unlink()

    def is_spent(self, strike: Strike) -> bool:
        """Whether it has happened as often as it may."""
        return strike.times is not None and self._claim(strike.id, strike.times - 1).exists()

    def claims(self, strike: int) -> list[dict[str, Any]]:
        """Return what was said at each time that the strike with this id has happened, in order."""
        paths = itertools.takewhile(Path.exists, (self._claim(strike, turn) for turn in itertools.count()))
        return [json.loads(path.read_text()) for path in paths]

    def _claim(self, strike: int, turn: int) -> Path:
        return self.directory / _CLAIMS / f"{strike}.{turn}"

    # Messages.

    def hold(self, key: str, raw: str, due: float) -> None:
        """Hold a message back."""
        path = self.directory / _HELD / f"{uuid.uuid4().hex}.json"
        _write(path, json.dumps({"due": due, "key": key, "raw": raw}))

    def held(self) -> list[Held]:
        """Return the messages that are held back, the next one first."""
        found = []
        for path in (self.directory / _HELD).glob("*.json"):
            with suppress(FileNotFoundError):
                found.append(Held(path=path, **json.loads(path.read_text())))
        return sorted(found, key=lambda message: message.due)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    draft.write_text(text)
    draft.replace(path)
