"""Reuse of stored engines, and builds that are interrupted or fail. Run by `test_tensorrt.py` where `import tensorrt` works.

python -m tests.exporter.engines.cache_checks CHECK
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import tensorrt as trt

from omnigen2_rt.exporter.engines import standard
from omnigen2_rt.exporter.engines.build import build_engines, engine_list
from omnigen2_rt.exporter.engines.options import BuildOptions, Limits
from omnigen2_rt.runtime.backends.tensorrt.engines import Machine
from omnigen2_rt.runtime.backends.tensorrt.records import FOLDER
from omnigen2_rt.runtime.backends.tensorrt.standard import TensorRT
from omnigen2_rt.runtime.files.user_cache import user_cache
from tests.exporter.engines.fake_builder import Builder, failure, options, patched, temporary_bundle
from tests.exporter.engines.small_bundle import MACHINE, attention_graph, make_bundle


def changed_machine(field: str) -> Callable[[Path], Any]:
    machine: Machine = replace(MACHINE, **{field: "other"})
    return lambda path: mock.patch.object(TensorRT, "machine", lambda self: machine)


def changed_bundle(**settings: Any) -> Callable[[Path], Any]:
    """A bundle with another graph or other weights, and the same engines."""

    @contextmanager
    def change(path: Path) -> Iterator[None]:
        original = path.with_name("original")
        path.rename(original)
        make_bundle(path, **settings)
        shutil.copytree(original / FOLDER, path / FOLDER)
        yield
        shutil.rmtree(path)
        original.rename(path)

    return change


def engine_is_reused_and_each_option_builds_another() -> None:
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        assert len(build_engines(bundle.path, options()).built) == 1
        again = build_engines(bundle.path, options())
        assert (len(again.built), len(again.reused), builder.builds) == (0, 1, 1)
        changes: list[dict[str, Any]] = [
            {"weight_streaming": True},
            {"strip_plan": True},
            {"version_compatible": True},
            {"hardware_compatibility": "ampere_plus"},
            {"workspace_bytes": 10**6},
            {"decomposable_attention": True},
        ]
        for number, changed in enumerate(changes):
            assert len(build_engines(bundle.path, options(**changed)).built) == 1, changed
            assert builder.builds == 2 + number
        limits = BuildOptions(library="tensorrt", precision="fp16", rope="native", limits=Limits(max_references=1))
        assert len(build_engines(bundle.path, limits).built) == 1
        assert len(engine_list(bundle.path)) == 2 + len(changes)


def each_part_of_the_key_builds_another_engine() -> None:
    plugin = "omnigen2_rt.runtime.backends.tensorrt.engines.plugin_identity"
    changes = {
        **{field.name: changed_machine(field.name) for field in fields(Machine)},
        "graph": changed_bundle(graphs={"transformer": attention_graph(doc="another file")}),
        "weights": changed_bundle(weights=b"others!"),
        "plugin": lambda path: mock.patch(plugin, lambda: "other source"),
        "triton": lambda path: mock.patch(plugin.replace("plugin_identity", "triton_version"), lambda: "0.1"),
    }
    for name, change in changes.items():
        builder = Builder()
        with temporary_bundle() as bundle, patched(builder):
            build_engines(bundle.path, options(rope="plugin"))
            with change(bundle.path):
                again = build_engines(bundle.path, options(rope="plugin"))
                assert (len(again.built), builder.builds) == (1, 2), name
            assert build_engines(bundle.path, options(rope="plugin")).built == (), f"{name} as before"
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        for rope in ("plugin", "native"):
            assert len(build_engines(bundle.path, options(rope=rope)).built) == 1


def two_builders_at_once_build_once() -> None:
    builder, waiting = Builder(), threading.Event()
    builder.before_build = lambda: waiting.wait(10)
    reports: list[Any] = []

    def progress(done: int, total: int, what: str) -> None:
        if "waiting for another builder" in what:
            waiting.set()

    with temporary_bundle() as bundle, patched(builder):
        threads = [
            threading.Thread(target=lambda: reports.append(build_engines(bundle.path, options(), progress)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert builder.builds == 1
    assert sorted(len(report.built) for report in reports) == [0, 1]
    assert sorted(len(report.reused) for report in reports) == [0, 1]


def killed_build_leaves_nothing_and_the_next_one_builds() -> None:
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        child = os.fork()
        if child == 0:
            builder.before_build = lambda: os._exit(9)
            build_engines(bundle.path, options())
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert engine_list(bundle.path) == []
        assert len(build_engines(bundle.path, options()).built) == 1


def truncated_engine_is_built_again() -> None:
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        (record,) = build_engines(bundle.path, options()).built
        (bundle.path / FOLDER / record.plan).write_bytes(b"pla")
        assert len(build_engines(bundle.path, options()).built) == 1
        assert builder.builds == 2


def full_disk_is_an_error_and_leaves_no_engine() -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        with mock.patch.object(os, "fsync", full):
            assert "can't write the engine transformer.fp16." in failure(bundle.path)
        assert engine_list(bundle.path) == []
        assert len(build_engines(bundle.path, options()).built) == 1


def timing_cache(content: bytes) -> Any:
    cache = mock.create_autospec(trt.ITimingCache, instance=True)
    cache.serialize.return_value = content
    return cache


def timings_are_stored_with_those_of_other_builders() -> None:
    builder = Builder()
    measured = timing_cache(b"measured")
    builder.config.get_timing_cache.return_value = measured
    with temporary_bundle() as bundle, patched(builder):
        (record,) = build_engines(bundle.path, options()).built
        (path,) = user_cache().folder.glob("timing-*.cache")
        assert path.name == "timing-11.4.0.106-NVIDIA-Test-1.cache"
        assert path.read_bytes() == b"measured"
        assert record.report["notes"] == []
        known = timing_cache(b"known")
        builder.config.create_timing_cache.return_value = known
        build_engines(bundle.path, options(weight_streaming=True))
        measured.combine.assert_called_once_with(known, ignore_mismatch=True)
    path.unlink()


def timings_are_not_measured_at_level_0() -> None:
    builder = Builder()
    builder.config.get_timing_cache.return_value = timing_cache(b"measured")
    with temporary_bundle() as bundle, patched(builder):
        build_engines(bundle.path, options(optimization_level=0))
        builder.config.set_timing_cache.assert_not_called()
        assert list(user_cache().folder.glob("timing-*.cache")) == []


def timings_that_do_not_fit_the_disk_are_a_note() -> None:
    builder = Builder()
    builder.config.get_timing_cache.return_value = timing_cache(b"measured")

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with temporary_bundle() as bundle, patched(builder), mock.patch.object(standard, "write_whole", full):
        (record,) = build_engines(bundle.path, options()).built
        assert record.report["notes"] == ["measured timings are not kept (No space left on device)"]


def main() -> None:
    globals()[sys.argv[1]]()


if __name__ == "__main__":
    main()
