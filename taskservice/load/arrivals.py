"""When runs are due in the open model: by the clock, whatever becomes of the runs before.

Pure: no clock and no random state of the module. Each user is a source of its own, so that any number of
them, in any number of processes, come to the rate that was asked for.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ARRIVALS", "ArrivalKind", "arrivals"]

ArrivalKind = Literal["poisson", "constant"]
ARRIVALS: Final = ("poisson", "constant")


def arrivals(rate: float, kind: ArrivalKind, *, seed: int, source: int) -> Iterator[float]:
    """Yield, in seconds from the start and without end, when the runs of one source are due.

    ``rate`` is the source's own, a second. ``poisson`` spaces them as if nobody knew of each other,
    ``constant`` evenly, each source shifted by a part of the space; the same seed gives the same.
    """
    random = Random(f"{seed}:{source}")  # noqa: S311 - a schedule is no secret
    space = 1.0 / rate
    due = random.random() * space if kind == "constant" else random.expovariate(rate)
    while True:
        yield due
        due += space if kind == "constant" else random.expovariate(rate)
