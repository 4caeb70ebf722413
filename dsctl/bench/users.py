"""The users and the shape of load as locust knows them: who sends, how many, and when their number changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from locust import FastHttpUser, LoadTestShape, task
from locust.exception import StopUser

if TYPE_CHECKING:
    from dsctl.bench.duty import Duty
    from dsctl.bench.plan import Plan

FOREVER = 1e9


class _BenchUser(FastHttpUser):
    """A user whose streams are read by our own reader. Its locust session serves other questions only, and safely:
    it verifies certificates, follows no redirect and sends nothing twice."""

    abstract = True
    insecure = False
    max_redirects = 0
    max_retries = 0
    network_timeout = connection_timeout = FOREVER
    default_headers: Any = {"Accept-Encoding": "identity"}  # noqa: RUF012 - as locust declares it
    duty: ClassVar[Duty]

    def wait_time(self) -> float:
        """None: a user of a closed load asks again as soon as it is free."""
        return 0.0


class ClosedUser(_BenchUser):
    """Asks, waits for the answer, asks again."""

    abstract = True

    def on_start(self) -> None:
        """Wait for the common start, and for this user's turn in it."""
        self.duty.join()

    @task
    def converse(self) -> None:
        """One conversation."""
        if not self.duty.user():
            raise StopUser


class Dispatcher(_BenchUser):
    """One for each worker: sends its share of an open-loop schedule."""

    abstract = True

    @task
    def dispatch(self) -> None:
        """The whole share."""
        self.duty.dispatch()
        raise StopUser


def users_of(plan: Plan, duty: Duty | None) -> Any:
    """The user class of a plan, bound to its worker's duty (none on the master, where no user runs)."""
    base = Dispatcher if plan.load.is_open else ClosedUser
    fields = {"abstract": False, "host": plan.target.url, "duty": duty}
    return type("BenchUser", (base,), fields)


class Shape(LoadTestShape):
    """Users of each stage of a closed load; one dispatcher a worker for an open one.

    Arrivals never come from here: locust asks for a shape once a second.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        super().__init__()
        self._plan = plan
        self._workers = workers

    def tick(self) -> tuple[int, float]:
        """(users, users to start per second); the workers know themselves when it is over."""
        if self._plan.load.is_open:
            return self._workers, FOREVER
        users = max(1, round(self._plan.load.target_at(self.get_run_time())[1]))
        return users, FOREVER
