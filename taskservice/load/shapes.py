"""A `Profile` as Locust's shape of load."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, ClassVar, Final

from locust import LoadTestShape

from taskservice.load.figures import window_figures
from taskservice.load.gates import parse_gate

if TYPE_CHECKING:
    from taskservice.load.account import Account
    from taskservice.load.plan import LoadPlan

__all__ = ["ProfileShape"]

PATIENCE: Final = 30.0
SETTLED: Final = 2.0
"""How many seconds of a step must be over before it can break."""


class ProfileShape(LoadTestShape):
    """Tells Locust how many users there are now; steps end when the plan's ``until`` is true of one."""

    abstract: ClassVar[bool] = True  # made by us, not found by Locust

    def __init__(self, plan: LoadPlan, account: Callable[[], Account]) -> None:
        super().__init__()
        self._profile = plan.profile()
        self._until = parse_gate(plan.until)
        self._account = account
        self._begun = False
        self._step = 0
        self._step_began = time()

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users and how many come in a second; ``None`` at the end."""
        if not self._begun:
            self._begin()
        elapsed = self.get_run_time() if self._begun else 0.0
        users = self._profile.users_at(elapsed)
        if users is None or (self._profile.name == "steps" and self._breaks(elapsed)):
            return None

        return users, float(max(users, self._profile.most))

    def _begin(self) -> None:
        """Let the time begin once the first users are there: on other machines that takes a while."""
        wanted = self._profile.users_at(0.0) or 0
        patient = self.get_run_time() < PATIENCE
        if self.runner is not None and self.runner.user_count < wanted and patient:
            return

        self._begun = True
        self._step_began = time()
        self.reset_time()

    def _breaks(self, elapsed: float) -> bool:
        if self._profile.step_at(elapsed) != self._step:
            self._step = self._profile.step_at(elapsed)
            self._step_began = time()
        if time() - self._step_began < SETTLED:
            return False

        account = self._account()
        broken = self._until.holds(window_figures(account, self._step_began, time())) is True
        if broken:
            account.notes.add(
                f"broke at step {self._step + 1}, {self._profile.users_at(elapsed)} users: {self._until.text}"
            )
        return broken
