"""Mutated JSON files of a checkpoint: it opens, or export gives one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

from omnigen2_rt.exporter import bounded_worker, chat_template, tokenizer
from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.checkpoints import A
from tests.fuzz.mutations import mutate_json
from tests.fuzz.suite import CASES, Suite, check_message, record_counts

FILES = (
    "transformer/config.json", "vae/config.json", "mllm/config.json", "mllm/generation_config.json",
    "scheduler/scheduler_config.json", "processor/preprocessor_config.json", "processor/tokenizer_config.json",
    "processor/special_tokens_map.json", "processor/added_tokens.json",
)  # fmt: skip


@cache
def _checkpoint() -> Path:
    """A copy of A whose weights are links."""

    def place(source: str, target: str) -> None:
        os.symlink(source, target) if source.endswith(".safetensors") else shutil.copyfile(source, target)

    return Path(shutil.copytree(A, Path(mkdtemp(prefix="omnigen2-fuzz-")) / "checkpoint", copy_function=place))


def _in_this_process(job: str, what: str, **arguments: Any) -> Any:
    """The job of the child process, here: the templates of this suite are A's own, and a process takes too long."""
    try:
        return _result(job, json.dumps(arguments))
    except Exception as error:
        raise ExportError(f"{what}: {error}") from error


@lru_cache(maxsize=64)
def _result(job: str, arguments: str) -> Any:
    return bounded_worker.JOBS[job](**json.loads(arguments))


def run_case(random: Random | None) -> str:
    """Open the checkpoint with one mutated file, or without a mutation for None."""
    file = _checkpoint() / (random or Random(0)).choice(FILES)
    original = (A / file.relative_to(_checkpoint())).read_bytes()
    if random is not None:
        file.write_bytes(mutate_json(random, json.loads(original)))
    modules = [patch.object(module, "run_bounded", _in_this_process) for module in (chat_template, tokenizer)]
    try:
        with modules[0], modules[1]:
            Checkpoint.open(_checkpoint())
    except ExportError as error:
        check_message(error)
        return "refused"
    finally:
        file.write_bytes(original)
    return "opened"


SUITE = Suite("configs", run_case)


def test_checkpoint_without_a_mutation_opens() -> None:
    assert run_case(None) == "opened"


def test_mutated_configs_open_or_give_one_line(record_property: Callable[[str, object], None]) -> None:
    outcomes = record_counts(SUITE, record_property)
    assert sum(outcomes.values()) == CASES
    assert min(outcomes.values()) > CASES // 20, "the mutations are too coarse or too fine"
