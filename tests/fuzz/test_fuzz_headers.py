"""Mutated headers of safetensors files: they are read, or give one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

from omnigen2_rt.runtime.files.safetensors_header import read_header
from tests.fuzz.mutations import mutate_bytes, mutate_json
from tests.fuzz.suite import CASES, Suite, check_message, record_counts, scratch_folder

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "empty": {"dtype": "I64", "shape": [0, 7], "data_offsets": [32, 32]},
    "scalar": {"dtype": "U8", "shape": [], "data_offsets": [32, 33]},
}
DATA = bytes(33)


@cache
def _file() -> Path:
    return scratch_folder() / "model.safetensors"


def run_case(random: Random | None) -> str:
    """Read a file with a mutated header, length or size, or without a mutation for None."""
    header = json.dumps(HEADER).encode()
    if random is None:
        content = len(header).to_bytes(8, "little") + header + DATA
    elif (kind := random.random()) < 0.8:
        header = mutate_json(random, HEADER)
        content = len(header).to_bytes(8, "little") + header + DATA
    elif kind < 0.9:
        length = random.choice((0, 1, len(header) - 1, len(header) + 1, 10**8 + 1, 2**31, 2**63, 2**64 - 1))
        content = length.to_bytes(8, "little") + header + DATA
    else:
        content = mutate_bytes(random, len(header).to_bytes(8, "little") + header + DATA)
    _file().write_bytes(content)
    try:
        tensors = read_header(_file())
    except ValueError as error:
        check_message(error)
        return "refused"
    assert all(0 <= tensor.offset <= tensor.offset + tensor.nbytes <= len(content) for tensor in tensors.values())
    return "read"


SUITE = Suite("headers", run_case)


def test_header_without_a_mutation_is_read() -> None:
    assert run_case(None) == "read"


def test_mutated_headers_are_read_or_give_one_line(record_property: Callable[[str, object], None]) -> None:
    outcomes = record_counts(SUITE, record_property)
    assert sum(outcomes.values()) == CASES
    assert min(outcomes.values()) > CASES // 20, "the mutations are too coarse or too fine"
