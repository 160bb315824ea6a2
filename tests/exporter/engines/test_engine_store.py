"""The engine cache: every part of the key counts, and a failed build leaves no engine that loads."""

from __future__ import annotations

import ast
import dataclasses
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from omnigen2_rt.exporter.engines.engine_store import build_lock, list_engines, prune, stored_engine
from omnigen2_rt.exporter.engines.options import EngineOptions
from omnigen2_rt.plugins import omni_rope
from omnigen2_rt.runtime.backends.cache_keys import digest
from omnigen2_rt.runtime.backends.tensorrt.engines import (
    PLUGIN_FILES,
    Machine,
    differences,
    find_engine,
    make_key,
)
from omnigen2_rt.runtime.backends.tensorrt.records import FOLDER, EngineRecord, engine_name
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError, ExportError
from tests.exporter.engines.small_bundle import MACHINE, attention_graph, make_bundle, make_test_key, store_plan

PLAN = b"a plan" * 1000


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


CHANGES = {
    "graph": "0" * 64,
    "weights": "1" * 64,
    "profiles": [{"name": "other"}],
    "precision": "bf16",
    "plugin": "2" * 64,
    "triton": "0.1",
    "rope": "native",
    "library": "tensorrt-rtx",
    "tensorrt": "11.3.0.1",
    "gpu": "NVIDIA Test 2",
    "compute_capability": "8.9",
    "driver": "570.9",
    "options": EngineOptions(optimization_level=5).to_json(),
    "component": "vae_decoder",
    "format": 0,
}


def test_key_changes_cover_every_part(bundle: Bundle) -> None:
    assert CHANGES.keys() == make_test_key(bundle).keys()


@pytest.mark.parametrize("part", CHANGES)
def test_key_with_another_part_is_another_engine_and_the_part_is_named(bundle: Bundle, part: str) -> None:
    key = make_test_key(bundle)
    changed = {**key, part: CHANGES[part]}
    store_plan(bundle.path, key, PLAN)
    assert stored_engine(bundle.path, key) is not None
    assert stored_engine(bundle.path, changed) is None
    assert [line.split(":")[0].split(" ")[0].split(".")[0] for line in differences(key, changed)] == [part]


def test_key_follows_graph_bytes_and_weights(tmp_path: Path) -> None:
    bundles = [
        make_bundle(tmp_path / "a"),
        make_bundle(tmp_path / "b", graphs={"transformer": attention_graph(doc="another file")}),
        make_bundle(tmp_path / "c", weights=b"others!"),
    ]
    assert len({digest(make_test_key(bundle)) for bundle in bundles}) == 3


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Machine) if field.name != "library"])
def test_engine_of_another_machine_is_not_found_and_the_message_names_the_part(bundle: Bundle, field: str) -> None:
    store_plan(bundle.path, make_test_key(bundle), PLAN)
    assert find_engine(bundle, "transformer", "fp16", MACHINE).size_bytes == len(PLAN)
    elsewhere = dataclasses.replace(MACHINE, **{field: "12.0"})
    with pytest.raises(BackendError, match=f"{field}: built with .*, here 12.0.*omnigen2 build"):
        find_engine(bundle, "transformer", "fp16", elsewhere)


def test_engine_of_the_other_library_is_not_found(bundle: Bundle) -> None:
    store_plan(bundle.path, make_test_key(bundle), PLAN)
    with pytest.raises(BackendError, match="the bundle has no tensorrt-rtx engine of transformer.*--library tensorrt-rtx"):
        find_engine(bundle, "transformer", "fp16", dataclasses.replace(MACHINE, library="tensorrt-rtx"))


def test_engine_that_the_library_refuses_is_not_found_and_the_reason_is_named(bundle: Bundle) -> None:
    """The library is asked about whole engines only."""
    record = store_plan(bundle.path, make_test_key(bundle), PLAN)
    asked: list[str] = []

    def refusal(record: EngineRecord) -> str:
        asked.append(record.name)
        return "the GPU has too little memory for it"

    with pytest.raises(BackendError, match=r"may run here \(the GPU has too little memory for it\): run `omnigen2 build"):
        find_engine(bundle, "transformer", "fp16", MACHINE, refusal=refusal)
    assert asked == [record.name]
    (bundle.path / FOLDER / record.plan).write_bytes(b"cut")
    with pytest.raises(BackendError, match="has 3 bytes, not"):
        find_engine(bundle, "transformer", "fp16", MACHINE, refusal=refusal)
    assert asked == [record.name]


def test_engine_for_several_gpus_is_found_on_another(bundle: Bundle) -> None:
    key = make_test_key(bundle, options=EngineOptions(hardware_compatibility="ampere_plus").to_json())
    store_plan(bundle.path, key, PLAN)
    elsewhere = dataclasses.replace(MACHINE, gpu="NVIDIA Test 2", compute_capability="8.0", driver="1.0")
    find_engine(bundle, "transformer", "fp16", elsewhere)
    with pytest.raises(BackendError, match="tensorrt: built with 11.4.0.106, here 11.3.0"):
        find_engine(bundle, "transformer", "fp16", dataclasses.replace(elsewhere, tensorrt="11.3.0"))


def test_engine_of_an_older_plugin_is_not_found(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    store_plan(bundle.path, make_test_key(bundle), PLAN)
    monkeypatch.setattr("omnigen2_rt.runtime.backends.tensorrt.engines.plugin_identity", lambda: "new")
    with pytest.raises(BackendError, match="plugin"):
        find_engine(bundle, "transformer", "fp16", MACHINE)


def test_engine_runs_where_its_kernels_compiler_is_another_or_missing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine holds the compiled kernel. A build here would give another engine."""
    key = make_test_key(bundle, triton="0.1")
    store_plan(bundle.path, key, PLAN)
    monkeypatch.setattr("omnigen2_rt.runtime.backends.tensorrt.engines.triton_version", lambda: None)
    assert find_engine(bundle, "transformer", "fp16", MACHINE).key == key
    assert stored_engine(bundle.path, make_test_key(bundle)) is None


def test_plugin_identity_covers_every_source_of_the_kernel() -> None:
    folder = Path(omni_rope.__file__).parent
    imported = {
        f"{node.module or '__init__'}.py"
        for name in PLUGIN_FILES
        for node in ast.walk(ast.parse((folder / name).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level == 1
    }
    assert imported <= set(PLUGIN_FILES)


def test_missing_engine_is_an_error_that_says_how_to_build(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="has no tensorrt engine of transformer in fp16: run `omnigen2 build"):
        find_engine(bundle, "transformer", "fp16", MACHINE)


@pytest.mark.parametrize("content", [PLAN[:-1], b"", PLAN[:-1] + b"?"], ids=["truncated", "empty", "changed"])
def test_engine_with_a_damaged_plan_is_never_found(bundle: Bundle, content: bytes) -> None:
    key = make_test_key(bundle)
    record = store_plan(bundle.path, key, PLAN)
    (bundle.path / FOLDER / record.plan).write_bytes(content)
    assert stored_engine(bundle.path, key) is None
    with pytest.raises(BackendError, match=r"transformer\.fp16\.[0-9a-f]{16}\.plan has"):
        find_engine(bundle, "transformer", "fp16", MACHINE)


def test_engine_with_an_edited_record_is_never_found(bundle: Bundle) -> None:
    """A record whose key was edited no longer has the name of its key."""
    record = store_plan(bundle.path, make_test_key(bundle), PLAN)
    path = bundle.path / FOLDER / f"{record.name}.json"
    path.write_text(path.read_text().replace(MACHINE.gpu, "NVIDIA Test 2"))
    with pytest.raises(BackendError, match="no tensorrt engine"):
        find_engine(bundle, "transformer", "fp16", dataclasses.replace(MACHINE, gpu="NVIDIA Test 2"))


KILLED = """
import os, sys
from pathlib import Path
from tests.exporter.engines.small_bundle import make_test_key, store_plan
from omnigen2_rt.runtime.bundle import Bundle
bundle = Bundle.open(sys.argv[1])
replace_file, calls = os.replace, []
def replace(source, target):
    calls.append(target)
    if len(calls) == int(sys.argv[2]):
        os._exit(9)
    replace_file(source, target)
os.replace = replace
store_plan(bundle.path, make_test_key(bundle), b"a plan" * 1000)
"""


@pytest.mark.parametrize("rename", [1, 2], ids=["before the plan", "before the record"])
def test_build_killed_while_writing_leaves_no_engine_and_prune_cleans_up(bundle: Bundle, rename: int) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", KILLED, str(bundle.path), str(rename)], capture_output=True, text=True
    )
    assert finished.returncode == 9, finished.stderr
    assert list_engines(bundle.path) == []
    assert stored_engine(bundle.path, make_test_key(bundle)) is None
    removed, freed = prune(bundle.path, lambda record: True)
    assert len(removed) == rename
    assert freed >= len(PLAN)
    assert [path for path in (bundle.path / FOLDER).iterdir() if path.suffix != ".lock"] == []


def test_build_on_a_full_disk_leaves_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match="No space left on device"):
        store_plan(bundle.path, make_test_key(bundle), PLAN)
    assert list((bundle.path / FOLDER).iterdir()) == []


def test_lock_makes_a_second_builder_wait(bundle: Bundle) -> None:
    order = []
    waiting = threading.Event()

    def second() -> None:
        with build_lock(bundle.path, "x", waiting.set):
            order.append("second")

    with build_lock(bundle.path, "x"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_wait_for_the_lock_can_be_cancelled(bundle: Bundle) -> None:
    with build_lock(bundle.path, "x"):
        with pytest.raises(ExportError, match="gave up waiting"):
            with build_lock(bundle.path, "x", lambda: False):
                pass


def test_prune_keeps_chosen_engines_and_those_of_a_running_build(bundle: Bundle) -> None:
    keys = [make_test_key(bundle, driver=str(number)) for number in range(3)]
    names = [store_plan(bundle.path, key, PLAN).name for key in keys]
    with build_lock(bundle.path, names[2]):
        removed, freed = prune(bundle.path, lambda record: record.name == names[0])
    assert sorted(removed) == [f"{names[1]}.json", f"{names[1]}.plan"]
    assert freed > len(PLAN)
    assert {record.name for record, _ in list_engines(bundle.path)} == {names[0], names[2]}


def test_engine_name_is_component_precision_and_digest(bundle: Bundle) -> None:
    graph = bundle.graph("transformer", "fp16")
    key = make_key(bundle, graph, MACHINE, rope="native", profiles=[], options={})
    assert engine_name(key) == f"transformer.fp16.{digest(key)}"
    assert key["plugin"] is None
