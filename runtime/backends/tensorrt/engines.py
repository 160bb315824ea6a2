"""TensorRT engines on disk: their place in a bundle, what each was built from, and which may be loaded here.

An engine is two files in the bundle's `engines/`: the plan, and a record of everything that went into it. The record is written
last, so that a plan without one is an unfinished build. Knows no TensorRT: builder and runtime share this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .... import plugins
from ...bundle import Bundle
from ...errors import BackendError
from ...files.hashes import file_hash
from ...manifest import GraphSpec
from ..cache_keys import Key, digest, weight_identity

FOLDER = "engines"
FORMAT_VERSION = 1
PLUGIN_FILES = ("__init__.py", "kernel.py", "plugin.py", "ptx.py")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The software and the GPU that an engine is bound to. compute_capability: "9.0", for example."""

    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """A built engine.

    key: what it was built from.
    plan: its file's name.
    size_bytes, sha256: the file's.
    report: the build's figures.
    """

    key: Key
    plan: str
    size_bytes: int
    sha256: str
    report: dict[str, Any]

    @property
    def name(self) -> str:
        """The plan's name without its ending: component, precision and the key's digest."""
        return self.plan.removesuffix(".plan")


def engine_name(key: Key) -> str:
    """The name of the engine's files, without ending."""
    return f"{key['component']}.{key['precision']}.{digest(key)}"


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
        **_from_bundle(bundle, graph, key.get("rope", "plugin")),
        **asdict(machine),
    }
    options = key.get("options", {})
    may_differ: set[str] = set()
    if options.get("version_compatible") and key["tensorrt"].split(".")[0] == machine.tensorrt.split(".")[0]:
        may_differ |= {"tensorrt", "driver"}
    if options.get("hardware_compatibility", "none") != "none":
        may_differ |= {"gpu", "compute_capability", "driver"}
        if options["hardware_compatibility"] == "same_compute_capability":
            may_differ.discard("compute_capability")
    return [line for line in differences(key, expected) if line.split(":")[0].split(" ")[0] not in may_differ]


def read_records(bundle: Path) -> list[EngineRecord]:
    """The records in a bundle, newest first. Files that aren't whole records are skipped."""
    records = []
    for path in sorted((bundle / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        record = read_record(path)
        if record is not None:
            records.append(record)
    return records


def read_record(path: Path) -> EngineRecord | None:
    """A record, or None where the file isn't one, or is not the record of the key that it states."""
    try:
        record = EngineRecord(**json.loads(path.read_text(encoding="utf-8")))
        whole = path.stem == record.name == engine_name(record.key)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if whole else None


def plan_problem(bundle: Path, record: EngineRecord, *, every_byte: bool = True) -> str | None:
    """Why a record's plan isn't the file that was built, or None."""
    path = bundle / FOLDER / record.plan
    if not path.is_file():
        return f"{record.plan} is missing"
    size = path.stat().st_size
    if size != record.size_bytes:
        return f"{record.plan} has {size} bytes, not {record.size_bytes}"
    if every_byte and file_hash(path) != record.sha256:
        return f"{record.plan} has other bytes than were built"
    return None


def find_engine(bundle: Bundle, component: str, precision: str, machine: Machine) -> EngineRecord:
    """The newest engine of a component that may run here. Raises BackendError that says what differs in the nearest one."""
    graph = bundle.graph(component, precision)
    reasons: list[list[str]] = []
    for record in read_records(bundle.path):
        if (record.key["component"], record.key["precision"]) != (component, precision):
            continue
        wrong = mismatches(record, bundle, graph, machine)
        damage = None if wrong else plan_problem(bundle.path, record)
        if not wrong and damage is None:
            return record
        reasons.append(wrong or [str(damage)])
    advice = f"run `omnigen2 build {bundle.path} --precision {precision}` on this machine"
    if not reasons:
        raise BackendError(f"the bundle has no TensorRT engine of {component} in {precision}: {advice}")
    nearest = min(reasons, key=len)
    raise BackendError(
        f"no TensorRT engine of {component} in {precision} may run here ({'; '.join(nearest)}): {advice}"
    )
