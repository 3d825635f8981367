"""The tests of unittest.TestCases: in every chosen world and seed, as functions are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

ALL_IN = ("-o", "usefixtures=taskservice_app")
CASES = """
    import unittest

    import pytest
    from shopx.tasks import add

    STARTED = []

    class TestAdding(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            STARTED.append(cls)

        def setUp(self):
            self.first = add.delay(1, 2)

        def test_sum(self):
            for right in (4, 5):
                with self.subTest(right=right):
                    self.assertEqual(add.delay(self.first.get(timeout=10), right).get(timeout=10), 3 + right)
            self.assertTrue(self.id().endswith("TestAdding.test_sum"))
            self.assertEqual(STARTED, [TestAdding])

        @pytest.mark.taskservice(backend="celery-sim")
        def test_simulated(self):
            self.assertEqual(self.first.get(), 3)

    class TestAlone(unittest.IsolatedAsyncioTestCase):
        async def runTest(self):
            self.assertEqual(add.delay(1, 2).get(timeout=10), 3)
"""


def test_a_test_case_is_in_every_chosen_world(downstream: Downstream) -> None:
    downstream.write(test_cases=CASES)

    result = downstream.run(*ALL_IN, "--taskservice-backend=celery,celery-sim,celery-eager,anyio", "-v")

    # The anyio world has no celery messages.
    result.assert_outcomes(passed=7, skipped=4)
    result.stdout.fnmatch_lines_random(
        [
            *(
                f"test_cases.py::TestAdding::test_sum[[]{world}[]] PASSED*"
                for world in ("celery", "celery-sim", "celery-eager")
            ),
            "test_cases.py::TestAdding::test_simulated[[]celery-sim[]] PASSED*",
            "test_cases.py::TestAlone::runTest[[]celery-sim[]] PASSED*",
        ]
    )


def test_a_test_case_that_is_meant_for_other_worlds_is_skipped(downstream: Downstream) -> None:
    downstream.write(test_cases=CASES)

    result = downstream.run(*ALL_IN, "--taskservice-backend=celery-eager", "-rs")

    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*meant for celery-sim; chosen: celery-eager"])


@pytest.mark.parametrize("chosen", ["TestAdding::test_sum", "TestAdding::test_sum[celery-sim-seed=3]"])
def test_one_is_chosen_by_its_id_as_before_or_with_its_world(downstream: Downstream, chosen: str) -> None:
    downstream.write(test_cases=CASES)

    result = downstream.run(
        *ALL_IN,
        "--taskservice-backend=celery-sim",
        "--taskservice-seed=2",
        "--taskservice-seeds=2",
        f"test_cases.py::{chosen}",
    )

    result.assert_outcomes(passed=1 if "[" in chosen else 2)


def test_a_failing_seed_of_a_test_case_is_shrunk_and_replayed(downstream: Downstream) -> None:
    downstream.write(
        test_cases="""
        import unittest

        import pytest
        from shopx.tasks import add

        class TestRace(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def world(self, taskservice_driver, taskservice_clock):
                self.driver, self.clock = taskservice_driver, taskservice_clock

            def test_first(self):
                sent = {add.delay(number, 0).id: number for number in range(2)}
                self.clock.run_until_idle()
                ended = [each.run for each in self.driver.log() if each.kind == "succeeded"]
                self.assertEqual([sent[run] for run in ended], [0, 1])
        """
    )

    result = downstream.run(*ALL_IN, "--taskservice-backend=celery-sim", "--taskservice-seeds=20")
    replay = next(line.split() for line in result.outlines if line.startswith("replay:"))
    again = downstream.run(*(word.strip("'") for word in replay[2:]))

    outcomes = result.parseoutcomes()
    assert outcomes["failed"] > 2
    assert outcomes["passed"] > 2
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["* taskservice simulation *"])


def test_a_test_case_is_run_twice_where_determinism_is_checked(downstream: Downstream) -> None:
    downstream.write(
        test_cases="""
        import unittest

        from shopx.tasks import add

        RUNS = []

        class TestTwice(unittest.TestCase):
            def test_it(self):
                RUNS.append(1)
                for _ in RUNS:
                    add.delay(1, 2).get()
        """
    )

    result = downstream.run(*ALL_IN, "--taskservice-backend=celery-sim", "--taskservice-check-determinism")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["taskservice: seed 0 told two stories, *"])
