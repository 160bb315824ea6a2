"""Rewrites that are kept in a file, so that a later run draws from the same texts, whatever the writer would say then."""

from __future__ import annotations

import json
from dataclasses import asdict

from ..runtime.files.kept_results import KeptResults
from .rewriter import Rewrite, Rewriter


class KeptRewriter:
    """A rewriter whose rewrites are kept. digest: of everything that decides them, see `RewritePlan.digest`."""

    def __init__(self, rewriter: Rewriter, kept: KeptResults, digest: str) -> None:
        self._rewriter = rewriter
        self._kept = kept
        self._digest = digest

    def rewrite(self, prompt: str, images: int = 0) -> Rewrite:
        """See `Rewriter.rewrite`. Raises RequestError where the file can't be written."""

        def written() -> str:
            return json.dumps(asdict(self._rewriter.rewrite(prompt, images)))

        return Rewrite(**json.loads(self._kept.get(["rewrite", self._digest, prompt, images], written)))
