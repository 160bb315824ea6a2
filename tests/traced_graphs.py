"""Graphs that torch traces once for every test, process and run: tracing is nearly all of an export's time.

Stands in for `trace.optimized_graph` and for nothing else of an export: names, functions, weights, files and hashes are made
each time. A graph's key is everything that `optimized_graph` is given (the modules with their attributes, the inputs, the
dynamic sizes), the package's sources and the versions of the tools. A network that can't be described whole is traced anew.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from filelock import FileLock, Timeout
from torch.onnx._internal._lazy_import import onnxscript_apis

ROOT = Path(__file__).resolve().parents[1]
GRAPHS = ROOT / ".cache" / "graphs"
RUNS_KEPT = 4
"""Graphs of this many states of the sources are kept."""
SOURCES = ("exporter", "plugins", "reference", "runtime")
TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript", "numpy")
PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype)
WEIGHTS = ("_parameters", "_buffers", "_modules")


def sources_hash() -> str:
    """Changes with every source that may decide a graph and with the tools' versions."""
    files = [Path(__file__), *(path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py")))]
    digest = hashlib.sha256(repr([sys.version, *map(version, TOOLS)]).encode())
    for path in files:
        digest.update(repr((str(path), path.read_bytes())).encode())
    return digest.hexdigest()[:16]


# Before the package is imported, and compared when a graph is stored: what ran is what was hashed.
IMPORTED_SOURCES = sources_hash()
trace: Any = importlib.import_module("omnigen2_rt.exporter.trace")
traced_anew = trace.optimized_graph
waiting_s = -1.0
"""Seconds to wait for another process that traces the same graph; negative: until it is done."""


class Indescribable(Exception):
    """An attribute of a module that may differ where its description is the same."""


def share_graphs() -> None:
    """Let the exports of this process take their graphs from the folder, and put there those that it lacks.

    torch asks onnxscript for its operators anew for every graph, which takes half a second; here it asks once.
    """
    trace.optimized_graph = shared_graph
    onnxscript_apis.get_torchlib_ops = functools.cache(onnxscript_apis.get_torchlib_ops)


def shared_graph(network: torch.nn.Module, inputs: Any, dynamic_shapes: Any, fake: Any) -> ir.Model:
    """Returns what `trace.optimized_graph` returns. Raises Timeout if another process traces it for longer than `waiting_s`."""
    try:
        key = hashlib.sha256(repr(description(network, inputs, dynamic_shapes)).encode()).hexdigest()[:32]
    except Indescribable:
        return traced_anew(network, inputs, dynamic_shapes, fake)
    file = GRAPHS / IMPORTED_SOURCES / f"{key}.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        with FileLock(file.with_suffix(".lock"), timeout=waiting_s):
            if not file.exists():
                _store(file, traced_anew(network, inputs, dynamic_shapes, fake))
    return decoded(file.read_bytes())


def trace_beside_others(jobs: Iterable[Callable[[], object]]) -> None:
    """Run each job, which traces one graph; leave out the graphs that another process is tracing."""
    global waiting_s
    waiting_s = 0.0
    try:
        for job in jobs:
            try:
                job()
            except Timeout:
                continue
    finally:
        waiting_s = -1.0


def forget_old_graphs() -> None:
    """Remove the graphs of all but the latest states of the sources."""
    (GRAPHS / IMPORTED_SOURCES).mkdir(parents=True, exist_ok=True)
    os.utime(GRAPHS / IMPORTED_SOURCES)
    for old in sorted(GRAPHS.iterdir(), key=lambda folder: folder.stat().st_mtime)[:-RUNS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def encoded(model: ir.Model) -> bytes:
    """The model as a file; an empty initializer becomes one whose data lies nowhere."""
    empty = [value for value in model.graph.initializers.values() if value.const_value is None]
    for value in empty:
        value.const_value = ir.ExternalTensor("", 0, 0, value.dtype, shape=value.shape, name=value.name)
    return bytes(ir.to_proto(model).SerializeToString())


def decoded(data: bytes) -> ir.Model:
    """The model that was encoded."""
    model = ir.from_proto(onnx.ModelProto.FromString(data))
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = None
    return model


def description(network: torch.nn.Module, inputs: Any, dynamic_shapes: Any) -> list[Any]:
    """Everything that decides the graph, as plain values. Raises Indescribable."""
    modules = [
        (name, _name(type(module)), {key: _plain(value) for key, value in vars(module).items() if key not in WEIGHTS})
        for name, module in network.named_modules(remove_duplicate=False)
    ]
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    first = {id(tensor): name for name, tensor in reversed(tensors)}
    weights = [(name, first[id(tensor)], *_layout(tensor)) for name, tensor in tensors]
    sizes = [sorted((axis, str(size)) for axis, size in axes.items()) for axes in dynamic_shapes]
    return [modules, weights, [_layout(tensor) for tensor in inputs], sizes, str(torch.get_default_dtype())]


def _store(file: Path, model: ir.Model) -> None:
    if sources_hash() != IMPORTED_SOURCES:
        raise RuntimeError("the package's sources changed while the tests ran: run them again")
    partial = file.with_suffix(".partial")
    partial.write_bytes(encoded(model))
    os.replace(partial, file)


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    if not isinstance(tensor, torch._subclasses.FakeTensor):
        raise Indescribable("a tensor with values")
    return (tuple(tensor.shape), tensor.stride(), str(tensor.dtype), str(tensor.device), tensor.requires_grad)


def _plain(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, tuple | list):
        return [type(value).__name__, *map(_plain, value)]
    if isinstance(value, set | frozenset):
        return ["set", *sorted(map(_plain, value))]
    if isinstance(value, dict):
        return ["dict", *((_plain(key), _plain(entry)) for key, entry in value.items())]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [_name(type(value)), _plain({entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)})]
    if isinstance(value, types.FunctionType) and not value.__closure__ and not value.__kwdefaults__:
        code = value.__code__
        return [_name(value), code.co_firstlineno, code.co_code.hex(), code.co_names, _plain(value.__defaults__)]
    raise Indescribable(repr(value))


def _name(thing: type | types.FunctionType) -> str:
    if thing.__module__.split(".")[0] not in ("omnigen2_rt", "torch"):
        raise Indescribable(f"{thing!r} is of {thing.__module__}")
    return f"{thing.__module__}.{thing.__qualname__}"
