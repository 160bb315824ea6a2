"""Kernels that TensorRT for RTX compiled for one engine on one GPU, kept in a file beside the engine.

Such a file is a program: it is used only where it carries this user's MAC.
"""

from __future__ import annotations

import hmac
import re
from contextlib import suppress
from pathlib import Path

from ...files.reading import read_bytes
from ...files.user_cache import user_cache
from ...files.writing import write_whole
from ..cache_keys import Key, digest
from .records import ENGINE_NAME, EngineRecord, engine_folder

PURPOSE = "TensorRT for RTX kernels"
SUFFIX = ".kernels"
KERNELS_NAME = re.compile(rf"(?P<engine>{ENGINE_NAME.pattern})\.[0-9a-f]{{16}}{re.escape(SUFFIX)}")
MAC_BYTES = 64
MAX_BYTES = 2**30


class KernelCache:
    """The file of one engine on one GPU.

    bundle: the bundle's folder.
    machine: the GPU, its compute capability and driver, and the library's version.
    """

    def __init__(self, bundle: Path, engine: EngineRecord, machine: Key) -> None:
        key = {**machine, "engine": engine.sha256}
        self.path = engine_folder(bundle) / f"{engine.name}.{digest(key)}{SUFFIX}"

    def read(self) -> bytes | None:
        """The kernels, or None where there are none, or not of this user."""
        try:
            content = read_bytes(self.path, MAX_BYTES)
        except (OSError, ValueError):
            return None
        mac, kernels = content[:MAC_BYTES], content[MAC_BYTES:]
        return kernels if hmac.compare_digest(mac, self._mac(kernels)) else None

    def write(self, kernels: bytes) -> None:
        """Keep the kernels, unless the disk refuses or this user has no secret: a later process then compiles them again."""
        if user_cache().problem is None and len(kernels) + MAC_BYTES <= MAX_BYTES:
            with suppress(OSError):
                write_whole(self.path, self._mac(kernels) + kernels)

    def _mac(self, kernels: bytes) -> bytes:
        return user_cache().mac(PURPOSE, self.path.name.encode(), b"\0", kernels).encode()
