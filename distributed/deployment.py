"""The replicas of a bundle as an application of Ray Serve: started, called, watched, replaced one by one, and removed.

Serve routes tasks to the replica with the fewest, and restarts replicas that die. Its HTTP proxies aren't used.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..runtime.errors import BackendError, OmniGen2Error
from .cluster import import_ray, last_line
from .nodes import has_text
from .remote import ReplicaLost
from .replica import Replica, ReplicaPlan
from .settings import ReplicaSettings
from .tasks import Message, Task

POLL_S = 1.0
"""Seconds between two counts of the replicas."""
STATUS_S = 30.0
"""Seconds that Serve may take to say how the replicas are."""
DRAIN_S = 300.0
"""Seconds that a replica has to finish its tasks when it is replaced or too many; then another one begins them again."""
NOT_THERE = ("STARTING", "STOPPED")
"""States in which a replica has no tasks. One that is being stopped finishes those that it has."""
RESTARTS = 3
"""Attempts at a replica that can't open its bundle while an application starts."""


def import_serve() -> Any:
    """Ray Serve."""
    import_ray()
    from ray import serve

    return serve


def open_serve(apps: Iterable[str]) -> None:
    """Start Ray Serve where it doesn't run. Removes applications of these names, which a server left behind that was killed."""
    serve = import_serve()
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING", "enable_access_log": False})
    for app in serve.status().applications.keys() & set(apps):
        if not _is_deleted(serve, app):
            advice = "try again in some minutes; `serve status` shows them"
            raise OmniGen2Error(f"the replicas of an earlier server, {app!r}, have not ended: {advice}")


def _is_deleted(serve: Any, app: str) -> bool:
    """Remove an application. Returns whether it is gone already: Serve goes on with one whose replicas take long to end."""
    try:
        serve.delete(app)
    except TimeoutError:
        return False
    return True


@contextmanager
def deployed(app: str, plan: ReplicaPlan, settings: ReplicaSettings) -> Iterator[Deployment]:
    """A bundle's replicas, for the block. Raises OmniGen2Error where they don't start."""
    deployment = Deployment(app, plan, settings)
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.delete()


class Deployment:
    """A bundle's replicas. app: the application's name, of which a cluster has one."""

    def __init__(self, app: str, plan: ReplicaPlan, settings: ReplicaSettings) -> None:
        self._app = app
        self._plan = plan
        self._settings = settings
        self._serve = import_serve()
        self._handle: Any = None
        self._running = 0
        self._seen_s = time.monotonic()
        self._status = "NOT_STARTED"
        self._is_closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"replicas of {plan.name}", daemon=True)
        self._restarting = threading.Lock()

    def start(self) -> None:
        """Start the replicas. Raises OmniGen2Error where they don't come up."""
        self._deploy()
        self._wait()
        self._watcher.start()

    def send(self, task: Task) -> ServeResponse:
        """Send a task to a replica."""
        return ServeResponse(self._handle.carry_out.remote(task), self._plan.name)

    def restart(self) -> None:
        """Replace the replicas one by one by new processes, which read the bundle anew. Each ends its tasks first."""
        with self._restarting:
            self._deploy()
            self._status = "DEPLOYING"

    def delete(self) -> None:
        """Remove the replicas."""
        self._is_closed.set()
        if self._watcher.is_alive():
            self._watcher.join(STATUS_S)  # Serve's API starts a cluster where there is no connection any more
        _is_deleted(self._serve, self._app)

    def facts(self) -> dict[str, Any]:
        """The part of `/v1/capabilities` about the replicas."""
        counts = {"running": self._running, "min": self._settings.least, "max": self._settings.most}
        return {"replicas": {**counts, "status": self._status.lower()}}

    @property
    def most_tasks(self) -> int:
        """Tasks that all replicas hold together when there are as many as may be."""
        return self._settings.most * self._plan.max_tasks

    @property
    def outage_s(self) -> float:
        """Seconds since a replica was last known to take tasks, or to finish those that it has."""
        return time.monotonic() - self._seen_s

    @property
    def running(self) -> int:
        """Replicas that take tasks."""
        return self._running

    def _deploy(self) -> None:
        """Serve takes each call for a new version, and so replaces replicas that are there."""
        application = self._options().bind(self._plan)
        target = self._serve.api.RunTarget(application, name=self._app, route_prefix=None)
        (handle,) = self._serve.run_many([target], wait_for_applications_running=False)
        self._handle = handle.options(stream=True)

    def _options(self) -> Any:
        chosen = self._settings
        options: dict[str, Any] = {"num_replicas": chosen.least}
        if chosen.most > chosen.least:
            options = {
                "autoscaling_config": {
                    "min_replicas": chosen.least,
                    "max_replicas": chosen.most,
                    "target_ongoing_requests": 1,
                    "upscale_delay_s": chosen.upscale_delay_s,
                    "downscale_delay_s": chosen.downscale_delay_s,
                }
            }
        return self._serve.deployment(
            Replica,
            max_ongoing_requests=self._plan.max_tasks,
            ray_actor_options={"num_cpus": chosen.cpus, "num_gpus": chosen.gpus},
            graceful_shutdown_timeout_s=DRAIN_S,
            graceful_shutdown_wait_loop_s=0.2,
            health_check_period_s=5,
            request_router_config={"initial_backoff_s": 0.01, "max_backoff_s": 0.1},
            max_constructor_retry_count=RESTARTS,
            **options,
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + self._settings.start_s
        while self._status != "RUNNING":
            message = self._look()
            if self._status in ("DEPLOY_FAILED", "UNHEALTHY"):
                reason = re.sub(r"^[\w.]+Error: ", "", last_line(message))
                raise OmniGen2Error(f"the replicas of {self._plan.name!r} can't start: {reason}")
            if time.monotonic() > deadline:
                count = f"{self._running} of {self._settings.least} replicas of {self._plan.name!r} run"
                has = has_text(self._settings)
                raise OmniGen2Error(f"{count} after {self._settings.start_s:g} s; {has}: add nodes, or reserve less")
            time.sleep(0.05)

    def _watch(self) -> None:
        ray = import_ray()
        while not self._is_closed.wait(POLL_S):
            try:
                self._look()
            except (ray.exceptions.RayError, self._serve.exceptions.RayServeException):  # Serve's controller is being restarted
                self._running, self._status = 0, "UNKNOWN"

    def _look(self) -> str:
        """Note the application's status and count its replicas. Returns what Serve says about them."""
        application = self._serve.status().applications.get(self._app)
        if application is None:
            self._running, self._status = 0, "NOT_STARTED"
            return ""
        deployments = application.deployments.values()
        counts = [(state, count) for each in deployments for state, count in each.replica_states.items()]
        self._running = sum(count for state, count in counts if state == "RUNNING")
        if any(count for state, count in counts if state not in NOT_THERE):
            self._seen_s = time.monotonic()
        self._status = application.status.value
        return "\n".join([application.message, *(each.message for each in deployments)])


class ServeResponse:
    """A task's messages from a replica. See `remote.Response`."""

    def __init__(self, messages: Any, bundle: str) -> None:
        self._messages = messages
        self._bundle = bundle

    def __iter__(self) -> Iterator[Message]:
        """Waits for each message. Raises ReplicaLost, or what the replica's own code raised."""
        exceptions, unavailable = import_ray().exceptions, import_serve().exceptions.DeploymentUnavailableError
        try:
            yield from self._messages
        except exceptions.RayTaskError as error:  # our own code's, unless the replica was ended while it ran
            if isinstance(error.cause, exceptions.RayError):
                raise ReplicaLost from error
            raise error.cause from error
        except exceptions.RayError as error:
            raise ReplicaLost from error
        except unavailable as error:
            raise BackendError(f"no replica of {self._bundle!r} can start: see `serve status`") from error

    def cancel(self) -> None:
        """End the task."""
        with suppress(import_ray().exceptions.RayError, import_serve().exceptions.RayServeException):  # its replica is lost
            self._messages.cancel()
