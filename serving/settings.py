"""The server's settings and limits. Knows nothing of HTTP and of models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MEGABYTE = 2**20
MAX_SIDE_PX = 4096
"""The longest side of a delivered picture, unless the bundle's own size is larger."""
MAX_DELIVERED_PIXELS = 2**24
"""The largest area of all pictures of a request together, likewise."""
MAX_PICTURE_BYTES = 20 * MEGABYTE
MAX_PICTURE_PIXELS = 40_000_000
MAX_REQUEST_PIXELS = 100_000_000
"""The most pixels of all pictures that a request gives, those of a conversation's history included."""
MAX_CHAT_PIXELS = 4 * 1024 * 1024
"""A larger picture of a chat is scaled down to this area before the model reads it."""
MAX_IMAGES = 5
MAX_CHAT_IMAGES = 100
MAX_FETCHES = 20
"""The most pictures that a request lets the server fetch."""
MAX_STEPS = 200
MAX_ROUNDS = 5
MAX_PROMPT_CHARACTERS = 32_000
MAX_MESSAGES = 1000
CHARACTERS_PER_TOKEN = 16
"""A conversation of more characters than this times the model's context is refused before it is tokenized."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The settings of a server.

    max_queue: the most requests that wait for a bundle; another one gets status 429.
    max_active: the most requests that take turns on a bundle; None: 2 on a CPU, 1 on a GPU or under a memory limit.
    drain_s: how long requests under way may go on after the first signal.
    image_hosts: hosts from which pictures may be fetched; none by default.
    keys: SHA-256 digests of the API keys; with none, every caller of this machine is let in.
    state: the folder of the jobs' database; None: jobs live in memory.
    max_open_jobs: the most unfinished jobs of a key.
    max_body_bytes, body_timeout_s: how large the body of a request may be, and how long it may take to arrive.
    max_held_bytes: how large all bodies may be that the server holds, from their first byte to their job's end.
    header_timeout_s: how long a connection may stay without a whole request.
    keep_s, keep_bytes: how long finished jobs are kept, and how many bytes of them.
    """

    max_queue: int = 64
    max_active: int | None = None
    drain_s: float = 30.0
    image_hosts: frozenset[str] = field(default_factory=frozenset)
    keys: frozenset[bytes] = field(default_factory=frozenset)
    state: Path | None = None
    max_open_jobs: int = 8
    max_body_bytes: int = 64 * MEGABYTE
    body_timeout_s: float = 60.0
    max_held_bytes: int = 512 * MEGABYTE
    header_timeout_s: float = 30.0
    keep_s: float = 24 * 3600.0
    keep_bytes: int = 1024 * MEGABYTE
