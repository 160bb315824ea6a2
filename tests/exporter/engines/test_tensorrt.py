"""Builder and backend against TensorRT's real bindings, in separate processes with stub libraries.

The checks are the functions of the files below; one process runs all checks of a file.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.tensorrt_stubs import needs_compiler, run_with_stubs

FOLDER = Path(__file__).parent
FILES = ("name_checks", "builder_checks", "cache_checks", "runner_checks", "loading_checks")
NOT_CHECKS = {"main", "chain", "used_names", "checked_names", "timing_cache", "changed_machine", "changed_bundle"}

RUN_ALL = """
import importlib, json, sys, traceback
module = importlib.import_module("tests.exporter.engines." + {file!r})
outcomes = {{}}
for name in {checks!r}:
    try:
        getattr(module, name)()
        outcomes[name] = ""
    except BaseException:
        outcomes[name] = traceback.format_exc()
print("RESULT" + json.dumps(outcomes))
"""


def checks_of(file: str) -> list[str]:
    tree = ast.parse((FOLDER / f"{file}.py").read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name not in NOT_CHECKS]


CHECKS = [(file, check) for file in FILES for check in checks_of(file)]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, str]]:
    results = {}
    for file in sorted({file for file, _ in CHECKS}):
        finished = run_with_stubs(RUN_ALL.format(file=file, checks=checks_of(file)))
        lines = [line for line in finished.stdout.splitlines() if line.startswith("RESULT")]
        assert lines, finished.stderr[-3000:]
        results[file] = json.loads(lines[0].removeprefix("RESULT"))
    return results


@needs_compiler
@pytest.mark.parametrize(("file", "check"), CHECKS)
def test_tensorrt(outcomes: dict[str, dict[str, str]], file: str, check: str) -> None:
    assert outcomes[file][check] == "", outcomes[file][check]
