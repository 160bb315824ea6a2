"""Cache policies: at some steps, predict the transformer's output instead of running it.

A policy is what the user chooses, a small frozen value. `policy.start(...)` makes the state for one guidance branch of
one request. Device arrays are opaque to it: a prediction is a weighted sum of arrays it was handed, which the pipeline
evaluates on the device. A policy is a file here and a line in CACHES.
"""

from __future__ import annotations

from .policy import BranchCache, CachePolicy, DeviceArray
from .taylorseer import TaylorSeer
from .teacache import TeaCache

__all__ = ["CACHES", "BranchCache", "CachePolicy", "DeviceArray", "TaylorSeer", "TeaCache"]

CACHES: dict[str, type[TeaCache] | type[TaylorSeer]] = {"teacache": TeaCache, "taylorseer": TaylorSeer}
