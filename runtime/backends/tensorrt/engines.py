"""Engines on disk: their place in a bundle, what each was built from, and which may be loaded here.

An engine is two files in the bundle's `engines/`: the plan, and a record of everything that went into it (records.py). The record
is written last, so that a plan without one is an unfinished build. Knows no TensorRT: builder and runtime share this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .... import plugins
from ...bundle import Bundle
from ...errors import BackendError
from ...files.hashes import file_hash
from ...manifest import GraphSpec
from ..cache_keys import Key, weight_identity
from .records import EngineRecord, engine_folder, read_records

FORMAT_VERSION = 2
UNTRUSTED = "this user did not build it; if you trust who did: `omnigen2 build --trust`, or trust_engines=True"
PLUGIN_FILES = ("__init__.py", "kernel.py", "plugin.py", "ptx.py")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that an engine is bound to: the library and, unless the engine is compiled where it runs, GPU and driver.

    tensorrt: the library's version.
    compute_capability: "9.0", for example.
    """

    library: str
    tensorrt: str
    gpu: str | None
    compute_capability: str | None
    driver: str | None


def plugin_identity() -> str:
    """One hash over the Omni-RoPE plugin's source: its kernel is compiled into the engine."""
    folder = Path(plugins.__file__).parent / "omni_rope"
    return hashlib.sha256(b"\0".join((folder / name).read_bytes() for name in PLUGIN_FILES)).hexdigest()


def triton_version() -> str | None:
    """The version of the plugin kernel's compiler, or None where it isn't installed. A built engine runs without it."""
    from importlib.metadata import PackageNotFoundError, version  # brings `email`: a tenth of the import of the package

    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def make_key(
    bundle: Bundle,
    graph: GraphSpec,
    machine: Machine,
    *,
    rope: str,
    profiles: list[dict[str, Any]],
    options: Mapping[str, Any],
) -> Key:
    """The key of an engine for `graph` on this machine. rope: "plugin" or "native"; options: the builder's."""
    return {
        "format": FORMAT_VERSION,
        "component": graph.component,
        "precision": graph.precision,
        "rope": rope,
        **_from_bundle(bundle, graph, rope),
        "triton": triton_version() if rope == "plugin" else None,
        "profiles": profiles,
        "options": dict(options),
        **asdict(machine),
    }


def _from_bundle(bundle: Bundle, graph: GraphSpec, rope: str) -> Key:
    native = rope == "native" and graph.inlined_sha256 is not None
    return {
        "graph": graph.inlined_sha256 if native else graph.sha256,
        "weights": weight_identity(bundle),
        "plugin": plugin_identity() if rope == "plugin" else None,
    }


def differences(built: Key, expected: Key) -> list[str]:
    """The differences of two keys, a line each: `tensorrt: built with 11.3, here 11.4`. Long values are only named."""
    lines = []
    for name in sorted(built.keys() | expected.keys()):
        a, b = built.get(name), expected.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += [f"{name}.{line}" for line in differences(a, b)]
        elif a != b:
            short = len(f"{a}{b}") < 80
            lines.append(f"{name}: built with {a}, here {b}" if short else f"{name} differs")
    return lines


def mismatches(record: EngineRecord, bundle: Bundle, graph: GraphSpec, machine: Machine) -> list[str]:
    """Why an engine may not run here; empty where it may. Profiles, options and Triton are not compared.

    A version-compatible engine runs on other TensorRT versions with its major number, a hardware-compatible one on other GPUs;
    TensorRT itself then checks the rest.
    """
    key = record.key
    expected = {
        **key,
        "format": FORMAT_VERSION,
        **_from_bundle(bundle, graph, key["rope"]),
        **asdict(machine),
    }
    options = key["options"]
    may_differ: set[str] = set()
    if options["version_compatible"] and key["tensorrt"].split(".")[0] == machine.tensorrt.split(".")[0]:
        may_differ |= {"tensorrt", "driver"}
    if options["hardware_compatibility"] != "none":
        may_differ |= {"gpu", "compute_capability", "driver"}
        if options["hardware_compatibility"] == "same_compute_capability":
            may_differ.discard("compute_capability")
    return [line for line in differences(key, expected) if line.split(":")[0].split(" ")[0] not in may_differ]


def plan_problem(bundle: Path, record: EngineRecord, *, every_byte: bool = True) -> str | None:
    """Why a record's plan isn't the file that was built, or None."""
    path = engine_folder(bundle) / record.plan
    if path.is_symlink() or not path.is_file():
        return f"{record.plan} is missing, or is a link"
    size = path.stat().st_size
    if size != record.size_bytes:
        return f"{record.plan} has {size} bytes, not {record.size_bytes}"
    if every_byte and file_hash(path) != record.sha256:
        return f"{record.plan} has other bytes than were built"
    return None


def find_engine(
    bundle: Bundle,
    component: str,
    precision: str,
    machine: Machine,
    trusts_all: bool = False,
    refusal: Callable[[EngineRecord], str | None] = lambda record: None,
) -> EngineRecord:
    """The newest engine of a component that may run here. Raises BackendError that says what is wrong with the nearest one.

    trusts_all: also run engines that this user neither built nor trusts.
    refusal: asks the library why it can't run a whole engine on this GPU; None where it can.
    """
    graph = bundle.graph(component, precision)
    records, problems = read_records(bundle.path, component, precision)
    reasons: list[list[str]] = []
    for record in records:
        if record.key["library"] != machine.library:
            continue
        wrong = mismatches(record, bundle, graph, machine)
        if not wrong and not (trusts_all or record.is_own()):
            wrong = [UNTRUSTED]
        reason = None if wrong else plan_problem(bundle.path, record) or refusal(record)
        if not wrong and reason is None:
            return record
        reasons.append(wrong or [str(reason)])
    advice = f"run `omnigen2 build {bundle.path} --library {machine.library} --precision {precision}`"
    reasons += [[problem] for problem in problems]
    what = f"{machine.library} engine of {component} in {precision}"
    if not reasons:
        raise BackendError(f"the bundle has no {what}: {advice}")
    nearest = min(reasons, key=len)
    raise BackendError(f"no {what} may run here ({'; '.join(nearest)}): {advice}")
