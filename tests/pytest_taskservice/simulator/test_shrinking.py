"""Finding how little chance a failure needs, and telling stories; no simulation is opened here."""

from __future__ import annotations

import pytest

from pytest_taskservice.simulator.core.randomness import Randomness
from pytest_taskservice.simulator.shrinking import Shrunk, failure_of, shrink
from pytest_taskservice.simulator.story import Note, Story
from pytest_taskservice.simulator.telling import side_by_side, tell


def story(*notes: Note, draws: int = 100) -> Story:
    return Story(seed=7, start=1000.0, draws=draws, notes=notes)


def note(at: float, kind: str, run: str = "r1", worker: str = "", **detail: object) -> Note:
    return (1000.0 + at, kind, run, "shop.tasks.reserve", 1, worker, detail)


class World:
    """Fails if a predicate says so of the number of draws after which it is calm."""

    def __init__(self, fails: set[int] | range) -> None:
        self.fails = fails
        self.tried: list[int] = []

    def __call__(self, draws: int) -> Story | None:
        self.tried.append(draws)
        return story(draws=draws) if draws in self.fails else None


@pytest.mark.parametrize(
    ("fails", "draws"),
    [(range(101), 0), (range(37, 101), 37), ({100}, 100), ({35, *range(37, 101)}, 35)],
    ids=["without-chance", "from-37-on", "with-all-of-it", "not-monotonic"],
)
def test_the_fewest_draws_are_found_that_bring_the_failure(fails: set[int] | range, draws: int) -> None:
    found = shrink(story(draws=100), World(fails))

    assert (found.draws, found.of, found.replayed) == (draws, 100, True)


def test_a_failure_is_run_again_only_so_often() -> None:
    world = World(range(123_456, 1_000_001))

    found = shrink(story(draws=1_000_000), world)

    assert len(world.tried) == found.runs == 15
    assert found.draws < 1_000_000


def test_no_time_means_one_run_more() -> None:
    world = World(range(101))

    found = shrink(story(draws=100), world, seconds=0.0)

    assert world.tried == [100]
    assert found.draws == 100


def test_a_failure_that_does_not_come_again_is_said_to_be_of_no_seed() -> None:
    found = shrink(story(draws=100), World(set()))

    assert not found.replayed
    assert "--taskservice-check-determinism" in str(found)


def test_two_failures_are_the_same_if_they_come_from_the_same_line() -> None:
    def check(number: int) -> None:
        if number == 1:
            raise ValueError("one")
        raise ValueError(f"other: {number}")

    found = []
    for number in (1, 2, 3):
        try:
            check(number)
        except ValueError as error:
            found.append(failure_of(error, __file__))

    assert found[0] != found[1]
    assert found[1] == found[2]


def test_a_calm_world_draws_the_least_and_the_first() -> None:
    random = Randomness(3)
    random.calm_after = 2

    drawn = [random.between("body", (1.0, 2.0)) for _ in range(3)]

    assert drawn[0] > 1.0
    assert drawn[1] > 1.0
    assert drawn[2] == 1.0
    assert random.choice("worker", "abc") == "a"
    assert random.draws == 4


def test_ids_of_one_package_do_not_depend_on_what_others_draw() -> None:
    alone, beside = Randomness(3), Randomness(3)

    beside.uuid4("opentelemetry.context")

    assert alone.uuid4("kombu.utils.uuid") == beside.uuid4("kombu.utils.uuid")


def test_a_story_is_a_table_by_worker() -> None:
    told = tell(
        story(
            note(0.0, "sent", queue="celery"),
            note(0.001, "started", worker="w1@sim"),
            note(3723.5, "succeeded", worker="w1@sim", result="9"),
            note(3723.5, "crashed", run="", worker="w2@sim"),
        )
    )

    assert told == [
        "virtual time  driver          w1@sim                   w2@sim",
        "0.000         reserve#1 sent",
        "0.001                         reserve#1 started",
        "1:02:03.500                   reserve#1 succeeded (9)",
        "1:02:03.500                                            shop.tasks.reserve crashed",
    ]


def test_a_long_story_is_cut_in_the_middle() -> None:
    told = tell(story(*(note(float(number), "sent", run=str(number)) for number in range(500))))

    assert len(told) == 1 + 60 + 1
    assert told[16] == "... 440 more events ..."
    assert "reserve#500 sent" in told[-1]


def test_two_stories_are_laid_side_by_side_where_they_part() -> None:
    first = story(note(0.0, "sent"), note(0.001, "started", worker="w1@sim"))
    second = story(note(0.0, "sent"), note(0.002, "started", worker="w1@sim"))

    assert first.parts_from(first) is None
    assert first.digest != second.digest
    number = first.parts_from(second)
    assert number == 1
    assert side_by_side(first, second, number)[-1] == (
        ">>> 0.001000 reserve#1 started on w1@sim  0.002000 reserve#1 started on w1@sim"
    )


def test_a_shrunk_failure_says_how_much_chance_it_needs() -> None:
    told = str(Shrunk(story=story(), draws=3, of=90, runs=8))

    assert told == (
        "shrunk in 8 runs: the first 3 of 90 draws bring it; after them all takes its shortest time"
    )
