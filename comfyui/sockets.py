"""The types of the connections between these nodes, and the conversation that travels along one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from comfy_api.latest import io

from omnigen2_rt import Turn

BUNDLE = io.Custom("OMNIGEN2_BUNDLE")
"""An `open_bundles.OpenBundle`."""
CONVERSATION = io.Custom("OMNIGEN2_CONVERSATION")
"""A `History`."""
DRAWING_OPTIONS = io.Custom("OMNIGEN2_DRAWING_OPTIONS")
"""Fields of `Request` by name."""
ANSWER_OPTIONS = io.Custom("OMNIGEN2_ANSWER_OPTIONS")
"""Fields of `ChatSettings` by name."""


@dataclass(frozen=True, kw_only=True)
class History:
    """A conversation so far.

    turns: its turns.
    digest: the content digest of the bundle that gave the answers.
    """

    turns: tuple[Turn, ...]
    digest: str

    def turns_for(self, digest: str) -> tuple[Turn, ...]:
        """The turns for a bundle. Another bundle has other token ids, so there the answers' words are tokenized anew."""
        if digest == self.digest:
            return self.turns
        return tuple(replace(turn, token_ids=()) for turn in self.turns)
