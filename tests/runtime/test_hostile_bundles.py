"""Bundles from anywhere: names, links, weights and files that lead out of them, and what can't be read. Each gets its line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt import load
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BundleError
from omnigen2_rt.runtime.manifest import MANIFEST
from tests.fuzz.tiny_bundle import WEIGHTS, make_tiny_bundle, small_graph

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of a few bytes."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps(make_tiny_bundle(folder)))
    return folder


def change(bundle: Path, edit: Edit) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    edit(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def refusal(bundle: Path) -> str:
    """The message of the refused bundle."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    assert str(caught.value).isprintable()
    return str(caught.value)


OUTSIDE = (
    "../outside", "a/../../outside", "/etc/passwd", "//host/share", "C:\\file", "c:file", "a\\b", "a\0b", "a//b", "./a", "a/.",
    "a/", ".", "..", "", " ", "x/" * 501 + "x", "é" * 128, "a\u202eb", "a./b", "a /b",
)  # fmt: skip
GRAPHS_OUTSIDE = ("../a.onnx", "/a.onnx", "a\\b.onnx", "b/../../a.onnx", "C:a.onnx", "a.xml", "a.ort", "a")


def field(manifest: dict[str, Any], place: str) -> tuple[Any, str]:
    """The object and key of a place such as "files[0].file"."""
    entry, _, key = place.rpartition(".")
    return (manifest[entry.partition("[")[0]][0] if entry else manifest), key


@pytest.mark.parametrize(
    ("place", "name"),
    [(place, name) for place in ("tokenizer", "files[0].file") for name in OUTSIDE]
    + [(place, name) for place in ("graphs[0].file", "graphs[0].inlined") for name in GRAPHS_OUTSIDE],
    ids=ascii,
)
def test_name_that_is_not_inside_the_bundle_is_refused(bundle: Path, place: str, name: str) -> None:
    """`quantize` followed such a name through a link and wrote outside its folders."""

    def edit(manifest: dict[str, Any]) -> None:
        entry, key = field(manifest, place)
        entry[key] = name

    change(bundle, edit)
    message = refusal(bundle)
    assert f"{place} is " in message and "name inside the bundle" in message


@pytest.mark.parametrize("name", ["bundle.json", "Bundle.JSON", "engines/x", "compiled/x.blob", "Engines/x"])
def test_name_of_a_file_that_the_runtime_writes_is_refused(bundle: Path, name: str) -> None:
    change(bundle, lambda m: m["files"].append({**m["files"][0], "file": name}))
    assert f"names the file {name!r}, which the runtime writes itself" in refusal(bundle)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(graphs=[]), "bundle.json.graphs is empty: a bundle has at least a graph"),
        (lambda m: m["files"].append(m["files"][0]), f"names the file '{WEIGHTS}' twice"),
        (lambda m: m["files"].append({**m["files"][0], "file": WEIGHTS.upper()}), f"names the file '{WEIGHTS}' twice"),
        (lambda m: m["graphs"][0].update(file=m["graphs"][1]["file"]), "names the file 'language_model.fp32.onnx' twice"),
        (lambda m: m["graphs"].append({**m["graphs"][0], "file": "b.onnx"}), "names the graph ('token_embedding', 'fp32') twice"),
        (lambda m: m["files"].pop(3), "tokenizer is 'processor/tokenizer.json', which files doesn't list"),
        (lambda m: m["graphs"][0].update(inlined="b.onnx"), "graphs[0] has one of inlined and inlined_sha256"),
        (lambda m: m["graphs"][0].update(component="../x"), "graphs[0].component is '../x'; allowed is a name"),
    ],
    ids=["none", "a file twice", "other case", "a graph's file twice", "a graph twice", "no tokenizer", "no hash", "component"],
)
def test_listing_that_contradicts_itself_is_refused(bundle: Path, edit: Edit, message: str) -> None:
    """A twin without a hash was trusted, and deleted in place of a temporary file; a component named a cache's files."""
    change(bundle, edit)
    assert message in refusal(bundle)


def test_folder_that_is_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "mllm").rename(tmp_path / "elsewhere")
    (bundle / "mllm").symlink_to(tmp_path / "elsewhere")
    assert f"'{bundle / WEIGHTS}' lies in a folder that is a link" in refusal(bundle)


@pytest.mark.parametrize("name", [WEIGHTS, "lm_head.fp32.onnx", "processor/tokenizer.json", MANIFEST])
def test_link_out_of_the_bundle_is_refused_and_one_inside_is_read(bundle: Path, tmp_path: Path, name: str) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    assert f"{bundle / name}' is a link to '{tmp_path / 'elsewhere'}', outside the bundle" in refusal(bundle)
    (tmp_path / "elsewhere").rename(bundle / "inside")
    (bundle / name).unlink()
    (bundle / name).symlink_to(bundle / "inside")
    Bundle.open(bundle).verify()


def test_bundle_in_a_hubs_cache_opens(bundle: Path, tmp_path: Path) -> None:
    """There a snapshot's files are links into the folder of blobs above it."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(path for path in bundle.rglob("*") if path.is_file() and "link" not in path.parts):
        link = snapshot / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    Bundle.open(snapshot).verify()


LOCATIONS = (
    "../outside", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "unlisted", "", ".", "lm_head.fp32.onnx", "./" + WEIGHTS, MANIFEST,
)  # fmt: skip


def put_graph(bundle: Path, graph: bytes) -> None:
    """Make `graph` the bundle's first, with its hash."""
    change(bundle, lambda m: m["graphs"][0].update(sha256=hashlib.sha256(graph).hexdigest()))
    (bundle / "token_embedding.fp32.onnx").write_bytes(graph)


@pytest.mark.parametrize("location", LOCATIONS)
def test_graph_whose_weights_lie_in_no_listed_file_is_refused(bundle: Path, location: str) -> None:
    """OpenVINO took such a location for a memory address, and crashed or read the process's memory."""
    (bundle / "unlisted").write_bytes(bytes(100))
    put_graph(bundle, small_graph(location))
    assert f"takes weights from {location!r}, which bundle.json doesn't list" in refusal(bundle)


def test_weights_of_a_graph_in_a_folder_lie_beside_it(bundle: Path) -> None:
    """Engines read a location from the graph's own folder, where the file of that name may be another."""
    (bundle / "inner" / "mllm").mkdir(parents=True)
    (bundle / "inner" / "token.onnx").write_bytes(graph := small_graph(WEIGHTS))
    digest = hashlib.sha256(graph).hexdigest()
    change(bundle, lambda m: m["graphs"][0].update(file="inner/token.onnx", sha256=digest))
    assert f"takes weights from 'inner/{WEIGHTS}', which bundle.json doesn't list" in refusal(bundle)
    shutil.copyfile(bundle / WEIGHTS, bundle / "inner" / WEIGHTS)
    change(bundle, lambda m: m["files"].append({**m["files"][0], "file": f"inner/{WEIGHTS}"}))
    Bundle.open(bundle)


@pytest.mark.parametrize("offset", [10**6, 2**63 - 1])
def test_graph_whose_weights_lie_behind_a_files_end_is_refused(bundle: Path, offset: int) -> None:
    put_graph(bundle, small_graph(WEIGHTS, offset=offset))
    assert f"takes weights from behind the end of '{WEIGHTS}'" in refusal(bundle)


@pytest.mark.parametrize("content", [b"", b"<net name='a' version='11'></net>", b"\x08\x0a", bytes(range(256))])
def test_graph_that_is_no_onnx_file_is_refused(bundle: Path, content: bytes) -> None:
    """OpenVINO decides by content, and its own format names another file of weights."""
    put_graph(bundle, content)
    assert "ONNX model" in refusal(bundle)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "can't be read: it is not valid Unicode text"),
        (b"[" * 100_000, "can't be read: it is nested too deeply"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "holds the integer 99999999999999999999… beyond 64 bits"),
        (b"[]", "has no format_version"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer: fetch the file itself"),
    ],
    ids=["bytes", "deep", "digits", "a list", "lfs"],
)
def test_manifest_that_is_none_gives_one_line(bundle: Path, content: bytes, message: str) -> None:
    (bundle / MANIFEST).write_bytes(content)
    assert message in refusal(bundle)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, "lm_head.fp32.onnx", "processor/tokenizer.json"])
@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)], ids=["FIFO", "folder", "device"]
)
def test_file_that_is_not_a_regular_one_is_refused_at_once(bundle: Path, name: str, make: Callable[[Path], None]) -> None:
    """A FIFO hung, and a device gave bytes without end."""
    (bundle / name).unlink()
    make(bundle / name)
    assert "can't be read: " in (message := refusal(bundle)) or "is a link to '/dev/zero', outside the bundle" in message


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, "lm_head.fp32.onnx", "processor/tokenizer.json"])
def test_bundle_cloned_without_git_lfs_says_so(bundle: Path, name: str) -> None:
    (bundle / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3169968\n")
    assert "is a git-lfs pointer: fetch the file itself (git lfs pull)" in refusal(bundle)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800", "", "missing/deep"], ids=ascii)
def test_folder_whose_name_cannot_be_one_gives_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        load(tmp_path / name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("bundle", [5, None, b"nano", ["nano"], 1.5], ids=repr)
def test_bundle_that_is_no_name_gives_one_line(bundle: Any) -> None:
    message = rf"bundle must be the name of a folder \(str or path\), not {type(bundle).__name__}"
    with pytest.raises(BundleError, match=message):
        load(bundle)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_verification_hashes_everything_that_is_listed(bundle: Path) -> None:
    """Twins and prompts were left out. Weights change without a trace in their header."""
    opened = Bundle.open(bundle)
    twin = next(graph.inlined for graph in opened.manifest.graphs if graph.inlined)
    for name in (twin, WEIGHTS, "calibration.txt", "lm_head.fp32.onnx"):
        content = (bundle / name).read_bytes()
        (bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{name}' has changed since the export"):
            opened.verify()
        (bundle / name).write_bytes(content)
    checked: list[str] = []
    opened.verify(checked.append)
    assert set(checked) == opened.hashes.keys() and "calibration.txt" in checked


def test_files_that_nobody_reads_may_lie_in_a_bundle(bundle: Path) -> None:
    for name in ("README.md", ".gitattributes", "engines/x", "compiled/y.blob"):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text("hello")
    Bundle.open(bundle).verify()
