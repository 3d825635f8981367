"""How much one story may play, and that the loader says at which place it becomes too much."""

from __future__ import annotations

import pytest

from tests.pytest_taskservice.scenario.paid import changed, one, wrong

MOST = "a story plays 100,000 at most"


LONG = changed("within: 5s", "within: 71d")


def beating(entry: str, days: int) -> str:
    return LONG.replace("steps:", f"beat:\n  often: {{launch: charge, {entry}}}\nsteps:").replace(
        "expect:", f"  - {{advance: {days}d}}\nexpect:"
    )


def retried(task: str = "", *, count: int) -> str:
    behaviour = f"{task}fails_times: 30, retry: {{max_attempts: 20, delay: 1s}}"
    return (
        LONG.replace("returns: paid", behaviour)
        .replace("as: run", f"as: run, count: {count}")
        .replace("SUCCESS", "FAILURE")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            retried(count=5001), f"6:5: found 100,020 attempts at runs in this step; {MOST}", id="retries"
        ),
        pytest.param(
            LONG.replace("expect:", "  - {launch: charge, count: 10000}\n" * 10 + "expect:"),
            f"16:5: found 10,000 attempts at runs in this step, 100,001 with those before it; {MOST}",
            id="launches",
        ),
        pytest.param(
            LONG.replace("steps:", "  many: {group: [charge, charge, charge]}\nsteps:").replace(
                "expect:", "  - {launch: many, count: 10000}\n" * 4 + "expect:"
            ),
            f"11:5: found 30,000 attempts at runs in this step, 120,001 with those before it; {MOST}",
            id="members",
        ),
        pytest.param(
            beating("every: 300ms", 1),
            "6:3: found 288,000 attempts at runs of beat entry 'often' in 1d, 288,001 with those before it; "
            f"{MOST}",
            id="beat",
        ),
        pytest.param(
            beating("cron: '* * * * *'", 70),
            "6:3: found 100,800 attempts at runs of beat entry 'often' in 70d",
            id="cron",
        ),
    ],
)
def test_too_much_is_told_at_the_place_that_passes_the_bound(text: str, message: str) -> None:
    assert message in wrong(text)


def test_a_limit_that_ends_each_run_leaves_it_one_attempt() -> None:
    text = retried("runs_for: 2s, ", count=6000)

    assert "found 120,000 attempts" in wrong(text)
    assert one(text.replace("tasks:", "config: {task_time_limit: 1s}\ntasks:", 1))


def test_a_crontab_of_few_days_counts_for_few() -> None:
    assert one(beating("cron: '* * * * 1'", 70)).beat
