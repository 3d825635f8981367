from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskservice import LaunchOptions, ScheduleEntry, ScheduleError, Settings, create_app, parse_schedule
from taskservice.schedules.cron import Cron
from taskservice.schedules.timetable import Due, Interval, Timetable

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE = Interval(every=timedelta(minutes=1))


def entry(**fields: Any) -> ScheduleEntry:
    (found,) = parse_schedule({"nightly": {"task": "shop.clean", "schedule": 60, **fields}}, zone="UTC")
    return found


def berlin(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def fired(text: str, *, since: str, until: str, zone: str = "Europe/Berlin") -> list[str]:
    """Return the UTC instants, as day and clock, at which a cron string is due."""
    cron, last, end = Cron(text=text, zone=zone), berlin(since), berlin(until)
    found = []
    while (last := cron.after(last, last)) <= end:
        found.append(f"{last:%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("schedule", "every"),
    [
        (60, timedelta(minutes=1)),
        (0.5, timedelta(milliseconds=500)),
        (timedelta(hours=1), timedelta(hours=1)),
        ("PT5M", timedelta(minutes=5)),
        ("PT1H30M0.5S", timedelta(hours=1, minutes=30, milliseconds=500)),
        ("P1W", timedelta(days=7)),
        ("P1DT12H", timedelta(hours=36)),
    ],
)
def test_an_interval_is_seconds_or_an_iso_duration(schedule: object, every: timedelta) -> None:
    assert entry(schedule=schedule).timing == Interval(every=every)


def test_a_word_is_a_cron_string() -> None:
    assert entry(schedule="@daily").timing == Cron(text="0 0 * * *", zone="UTC")


def test_an_entry_says_what_is_launched_and_how() -> None:
    found = entry(args=[1, "a"], kwargs={"width": 80}, queue="slow", options={"expires": 30, "priority": 2})

    assert (found.name, found.task, found.args, found.kwargs) == (
        "nightly",
        "shop.clean",
        (1, "a"),
        {"width": 80},
    )
    assert found.options == LaunchOptions(queue="slow", expires=30, priority=2)


def test_an_entry_can_be_switched_off_and_is_still_checked() -> None:
    off = {"task": "shop.clean", "schedule": 60, "enabled": False}

    assert parse_schedule({"nightly": off}, zone="UTC") == ()
    with pytest.raises(ScheduleError, match="five fields"):
        parse_schedule({"nightly": {**off, "schedule": "* *"}}, zone="UTC")


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"tsk": "x"}, "entry", "unknown key 'tsk'; did you mean 'task'?"),
        ({"options": {"que": "x"}}, "options", "unknown key 'que'; did you mean 'queue'?"),
        ({"options": []}, "options", "need a dict, got []"),
        ({"task": ""}, "task", "got ''"),
        ({"schedule": None}, "schedule", "got None"),
        ({"schedule": 0}, "schedule", "need 0.001 s to 100 years"),
        ({"schedule": -5}, "schedule", "need 0.001 s to 100 years"),
        ({"schedule": float("inf")}, "schedule", "need a finite number of seconds, got inf"),
        ({"schedule": float("nan")}, "schedule", "need a finite number of seconds, got nan"),
        ({"schedule": 1e300}, "schedule", "beyond the calendar"),
        ({"schedule": True}, "schedule", "got True"),
        ({"schedule": ["*"]}, "schedule", "got ['*']"),
        ({"schedule": "P1M"}, "schedule", "cannot read the duration 'P1M'"),
        ({"schedule": "P" + "9" * 99 + "D"}, "schedule", "beyond the calendar"),
        ({"schedule": "* * * *"}, "schedule", "five fields"),
        ({"schedule": "@reboot"}, "schedule", "unknown word '@reboot'; known: @hourly"),
        ({"schedule": "60 * * * *"}, "schedule", "minute '60': need 0 to 59, got '60'"),
        ({"schedule": "* 24 * * *"}, "schedule", "hour '24'"),
        ({"schedule": "* * 0 * *"}, "schedule", "day of month '0'"),
        ({"schedule": "* * * 13 *"}, "schedule", "month '13'"),
        ({"schedule": "* * * * 7"}, "schedule", "need 0 to 6, Sunday is 0, got '7'"),
        ({"schedule": "* * * * monkey"}, "schedule", "got 'monkey'"),
        ({"schedule": "jan * * * *"}, "schedule", "minute 'jan'"),
        ({"schedule": "5-10-15 * * * *"}, "schedule", "cannot read '5-10-15'"),
        ({"schedule": "*/0 * * * *"}, "schedule", "need a step of 1 or more, got '0'"),
        ({"schedule": "5/2 * * * *"}, "schedule", "a step needs a range"),
        ({"schedule": "1,,2 * * * *"}, "schedule", "cannot read ''"),
        ({"schedule": "0 0 31 2 *"}, "schedule", "never fires"),
        ({"schedule": "0 0 31 4,6,9,11 *"}, "schedule", "never fires"),
        ({"args": "ab"}, "args", "need a list, got 'ab'"),
        ({"args": [1, {2}]}, "args", "argument 1 is set"),
        ({"kwargs": []}, "kwargs", "need a dict"),
        ({"kwargs": {1: 2}}, "kwargs", "need a dict with names as keys"),
        ({"kwargs": {"when": object()}}, "kwargs", "argument 'when' is object"),
        ({"queue": " "}, "queue", "need a name"),
        ({"priority": 10}, "priority", "need 0 to 9, got 10"),
        ({"expires": -1}, "expires", "need more than 0 seconds"),
        ({"queue": "a", "options": {"queue": "b"}}, "queue", "give it once"),
        ({"enabled": "no"}, "enabled", "need true or false, got 'no'"),
    ],
)
def test_a_mistake_names_entry_field_and_what_was_found(
    fields: dict[str, Any], field: str, problem: str
) -> None:
    with pytest.raises(ScheduleError) as caught:
        entry(**fields)

    assert (caught.value.entry, caught.value.field) == ("nightly", field)
    assert problem in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("missing", ["task", "schedule"])
def test_what_is_missing_is_told(missing: str) -> None:
    fields = {"task": "shop.clean", "schedule": 60}
    del fields[missing]

    with pytest.raises(ScheduleError, match=f"{missing}: .*it is missing"):
        parse_schedule({"nightly": fields}, zone="UTC")


def test_an_app_is_not_made_with_a_wrong_schedule() -> None:
    settings = Settings(beat_schedule={"nightly": {"task": "shop.clean", "schedule": "nonsense"}})

    with pytest.raises(ScheduleError, match="nightly"):
        create_app(settings)


def test_an_app_gets_celerys_own_schedule() -> None:
    nightly = {"task": "shop.clean", "schedule": "0 4 * * mon", "args": [1], "queue": "slow"}
    off = {"task": "shop.clean", "schedule": 1, "enabled": False}
    settings = Settings(beat_schedule={"nightly": nightly, "off": off})

    (found,) = create_app(settings).conf.beat_schedule.values()

    assert found["task"] == "shop.clean"
    assert (found["schedule"].hour, found["schedule"].day_of_week) == ({4}, {1})
    assert (found["args"], found["options"]) == ((1,), {"queue": "slow"})


def test_an_hour_that_comes_twice_fires_once() -> None:
    # Berlin's clocks go back from 03:00 to 02:00 at 01:00 UTC.
    night = {"since": "2026-10-24T12:00+00:00", "until": "2026-10-26T12:00+00:00"}

    assert fired("30 2 * * *", **night) == ["25 00:30", "26 01:30"]
    assert fired("30 1-3 * * *", **night)[:3] == ["24 23:30", "25 00:30", "25 02:30"]
    assert fired("*/20 2 * * *", **night)[:4] == ["25 00:00", "25 00:20", "25 00:40", "26 01:00"]
    assert fired("*/30 * * * *", since="2026-10-25T00:20+00:00", until="2026-10-25T03:00+00:00") == [
        "25 00:30",
        "25 02:00",
        "25 02:30",
        "25 03:00",
    ]


def test_who_begins_in_the_second_of_two_hours_fires_in_it() -> None:
    assert fired("30 2 * * *", since="2026-10-25T01:10+00:00", until="2026-10-25T12:00+00:00") == ["25 01:30"]


@given(
    text=st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "15,45 0-3 * * sun", "0 2 29 3,10 *"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Africa/Cairo"]),
    start=st.integers(0, 2 * 365 * 24 * 60).map(lambda minutes: START + timedelta(minutes=minutes)),
    later=st.timedeltas(timedelta(0), timedelta(hours=30)),
)
def test_time_only_goes_on(text: str, zone: str, start: datetime, later: timedelta) -> None:
    cron, last = Cron(text=text, zone=zone), start

    due = cron.after(last, last)
    latest = cron.latest(due, due + later)

    assert last < due <= latest <= due + later
    assert cron.after(latest, latest) > due + later


def test_where_both_days_are_given_both_must_match() -> None:
    # The first Friday the 13th after that day.
    assert fired("0 0 13 * fri", since="2026-03-14T00:00+00:00", until="2026-12-01T00:00+00:00") == [
        "12 23:00"
    ]


def test_a_skipped_hour_fires_an_hour_later_by_the_clock() -> None:
    # Berlin's clocks go forward from 02:00 to 03:00 at 01:00 UTC.
    night = {"since": "2026-03-28T12:00+00:00", "until": "2026-03-30T12:00+00:00"}

    assert fired("30 2 * * *", **night) == ["29 01:30", "30 00:30"]
    assert fired("30 1-3 * * *", **night)[:3] == ["29 00:30", "29 01:30", "29 23:30"]


def test_a_cron_that_was_missed_in_the_first_of_two_hours_is_not_made_up_for_twice() -> None:
    cron = Cron(text="30 2 * * *", zone="Europe/Berlin")
    table = Timetable({"nightly": cron})
    table.begin({"nightly": datetime(2026, 10, 24, 0, 30, tzinfo=UTC)}, START)
    second_hour = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)

    (due,) = table.due(second_hour)
    last = table.done(due, second_hour)

    assert last == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert cron.after(last, second_hour) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_an_interval_does_not_drift() -> None:
    table = Timetable({"a": MINUTE})
    table.begin({}, START)
    found = []

    for late in (61, 121.5, 180):
        now = START + timedelta(seconds=late)
        for due in table.due(now):
            found.append(due.at - START)
            table.done(due, now)

    assert found == [timedelta(minutes=1), timedelta(minutes=2), timedelta(minutes=3)]


def test_what_was_missed_is_made_up_for_once_and_the_grid_stays() -> None:
    table = Timetable({"a": MINUTE})
    table.begin({}, START)
    now = START + timedelta(minutes=10, seconds=20)

    (due,) = table.due(now)
    table.done(due, now)

    assert due == Due(name="a", at=START + timedelta(minutes=1))
    assert table.due(now) == []
    assert table.wait(now) == 40


def test_a_month_of_missed_minutes_is_one() -> None:
    table = Timetable({"a": Cron(text="* * * * *", zone="UTC")})
    table.begin({}, START)
    now = START + timedelta(days=30, seconds=15)

    (due,) = table.due(now)

    assert table.done(due, now) == now - timedelta(seconds=15)
    assert table.wait(now) == 45


def test_the_longest_overdue_goes_first() -> None:
    table = Timetable({"hourly": Interval(every=timedelta(hours=1)), "minutely": MINUTE})
    table.begin({}, START)

    assert [due.name for due in table.due(START + timedelta(hours=2))] == ["minutely", "hourly"]


def test_a_clock_that_was_put_back_does_not_silence_an_entry() -> None:
    table = Timetable({"a": MINUTE})
    table.begin({"a": START + timedelta(days=3)}, START)
    assert table.wait(START) == 60

    earlier = START - timedelta(days=1)

    assert table.due(earlier) == []
    assert table.wait(earlier) == 60


def test_nothing_to_do_is_never_due() -> None:
    table = Timetable({})
    table.begin({}, START)

    assert table.due(START) == []
    assert table.wait(START) == float("inf")


@given(
    seconds=st.floats(min_value=0.001, max_value=1e6),
    looks=st.lists(st.floats(min_value=0, max_value=1e6), max_size=30),
)
def test_no_instant_is_due_twice(seconds: float, looks: list[float]) -> None:
    table = Timetable({"a": Interval(every=timedelta(seconds=seconds))})
    table.begin({}, START)
    now, found = START, []

    for look in looks:
        now += timedelta(seconds=look)
        for due in table.due(now):
            found.append(due.at)
            assert due.at <= now
            table.done(due, now)
        assert not table.due(now)

    assert found == sorted(set(found))
