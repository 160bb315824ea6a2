"""Rewrites that are kept: a later run gets the same texts without asking."""

from __future__ import annotations

from pathlib import Path

from omnigen2_rt.rewriting.kept_rewrites import KeptRewriter
from omnigen2_rt.rewriting.rewriter import Rewriter, Written
from omnigen2_rt.rewriting.templates import Templates
from omnigen2_rt.runtime.files.kept_results import KeptResults


def test_kept_rewrite_is_the_first_one_until_its_digest_changes(tmp_path: Path) -> None:
    asked: list[str] = []

    def write(question: str) -> Written:
        asked.append(question)
        return Written(text=f"a fox in deep snow, number {len(asked)}")

    texts = []
    for digest in ("a", "a", "b"):
        kept = KeptResults(tmp_path / "rewrites.jsonl")
        rewriter = KeptRewriter(Rewriter(write, "stub", Templates()), kept, digest)
        texts.append(rewriter.rewrite("a fox").text[-1])
        assert rewriter.rewrite("a fox").refused is None
        kept.close()
    assert texts == ["1", "1", "2"]
