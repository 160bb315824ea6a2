"""Ray's actors without processes: calls run where their results are taken, and die as a test wants."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """The root of Ray's errors."""


class Call:
    """The reference of a call."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run


class FakeActor:
    """An actor. Its calls run later; those of one that was killed raise."""

    def __init__(self, ray: FakeRay, instance: Any) -> None:
        self._ray, self._instance = ray, instance
        self.is_alive = True

    def __getattr__(self, name: str) -> Any:
        def call(*values: Any) -> Call:
            def run() -> Any:
                if not self.is_alive:
                    raise RayError("the actor is dead")
                return getattr(self._instance, name)(*values)

            return Call(run)

        return SimpleNamespace(remote=call)


class FakeRay:
    """Ray with nodes of these resources. started: every actor. most_waiting: the most calls that were waited for at once."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, *nodes: dict[str, float]) -> None:
        self._nodes = nodes
        self.started: list[FakeActor] = []
        self.reserved: list[dict[str, Any]] = []
        self.most_waiting = 0

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self._nodes] + [{"Alive": False, "Resources": {"CPU": 64.0}}]

    def remote(self, kind: type) -> Any:
        def options(**reserved: Any) -> Any:
            def create(*values: Any) -> FakeActor:
                self.reserved.append(reserved)
                self.started.append(FakeActor(self, kind(*values)))
                return self.started[-1]

            return SimpleNamespace(remote=create)

        return SimpleNamespace(options=options)

    def wait(self, calls: list[Call], *, num_returns: int, timeout: float) -> tuple[list[Call], list[Call]]:
        assert calls, "Ray refuses to wait for nothing"
        self.most_waiting = max(self.most_waiting, len(calls))
        return calls[-1:], calls[:-1]  # the latest first: results come in any order

    def get(self, call: Call) -> Any:
        return call.run()

    def kill(self, actor: FakeActor) -> None:
        actor.is_alive = False
