"""The number of a bundle's replicas, and the resources that each reserves. Knows nothing of Ray and of models."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..runtime.errors import RequestError

MAX_REPLICAS = 1000
MAX_START_S = 86_400


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """Replicas of each bundle. Raises RequestError for a value that isn't allowed.

    least, most: how many there are; between the two their number follows the requests under way.
    cpus, gpus: what a replica reserves of a node: a fraction below 1, or a whole number. Ray only counts reservations.
    start_s: how long the first replicas may take to start, and how long requests wait while none runs.
    upscale_delay_s, downscale_delay_s: how long there must have been too few or too many before their number changes.
    """

    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    start_s: float = 120.0
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 600.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= MAX_REPLICAS:
            raise RequestError(f"--min-replicas={self.least} is out of range; 1 to {MAX_REPLICAS} are allowed")
        if not self.least <= self.most <= MAX_REPLICAS:
            raise RequestError(f"--max-replicas={self.most} is out of range; {self.least} to {MAX_REPLICAS} are allowed here")
        if not 1 <= self.start_s <= MAX_START_S:
            raise RequestError(f"--replica-wait={self.start_s:g} is out of range; 1 to {MAX_START_S} seconds are allowed")
        check_amount("--cpus-per-replica", self.cpus)
        check_amount("--gpus-per-replica", self.gpus)

    @property
    def threads(self) -> int:
        """CPU threads of a replica for which no number was given: the processors that it reserves."""
        return max(1, int(self.cpus))


def check_amount(name: str, amount: float) -> None:
    """Raises RequestError for an amount of a resource that Ray can't reserve. name: the option's."""
    if not (math.isfinite(amount) and 0 <= amount <= 1024):
        raise RequestError(f"{name}={amount:g} is out of range; 0 to 1024 are allowed")
    if amount > 1 and amount != int(amount):
        raise RequestError(f"{name}={amount:g} is neither a fraction below 1 nor a whole number, as Ray wants it")
