"""`omnigen2 export` as a process: interrupted, out of disk space, to another filesystem, from the Hugging Face cache."""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.exporter.components.diffusion_transformer import timestep_embedding, velocity_head
from omnigen2_rt.exporter.trace import trace
from omnigen2_rt.plugins.omni_rope.torch_export import emit
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.files.unfinished import NAME
from tests.commands.command import Command
from tests.commands.processes import COMMAND, EXPORT, EXPORT_OF_SHARED_GRAPHS, run, run_on_a_small_disk, start
from tests.exporter.checkpoints import TRANSFORMER, A, few_components, in_hub_layout

WORDS = ("--precision", "fp32")


def trace_two_graphs() -> None:
    """Trace what EXPORT_OF_SHARED_GRAPHS exports, for a process that may not write the files of new graphs."""
    checkpoint = Checkpoint.open(A)
    for component in (timestep_embedding, velocity_head):
        trace(component, checkpoint.transformer, partial(checkpoint.build, component.part, emit), "fp32")


def assert_export_finishes(command: Command, monkeypatch: pytest.MonkeyPatch, bundle: Path, resumed: int) -> None:
    """The next export of the same job makes the whole bundle and takes over the graphs that were done."""
    few_components(monkeypatch)
    finished = command("export", A, bundle, *WORDS)
    summary = f"2 graphs, {resumed} of them from an earlier run" if resumed else "2 graphs,"
    assert finished.code == 0 and summary in finished.out, finished
    Bundle.open(bundle).verify()
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_interrupted_export_exits_130_and_the_next_one_finishes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    process = start(*EXPORT, A, bundle, *WORDS, cwd=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    for line in process.stderr:
        if line.startswith("1/2 "):  # the first graph is written and the second under way
            process.send_signal(signal.SIGINT)
            break
    said, complaint = process.communicate(timeout=300)
    assert (process.returncode, said, complaint) == (130, "", "stopped\n")
    (unfinished,) = tmp_path.iterdir()
    assert NAME.fullmatch(unfinished.name)
    assert "is neither a bundle" in command.fails("info", unfinished)
    assert_export_finishes(command, monkeypatch, bundle, resumed=1)


@pytest.mark.slow
def test_export_of_a_file_too_large_to_write_says_so_and_the_next_one_finishes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links to weights and small graphs can be written; the tokenizer is too large."""
    bundle = tmp_path / "bundle"
    trace_two_graphs()
    limit = (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    finished = run(*EXPORT_OF_SHARED_GRAPHS, A, bundle, *WORDS, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.splitlines()[-1].startswith("error: can't write ")
    assert "File too large" in finished.stderr and "Traceback" not in finished.stderr
    assert [NAME.fullmatch(path.name) is not None for path in tmp_path.iterdir()] == [True]
    assert_export_finishes(command, monkeypatch, bundle, resumed=2)


@pytest.mark.slow
def test_export_to_a_full_disk_says_so_and_the_next_one_finishes(tmp_path: Path) -> None:
    """The copy of the transformer's weights finds no room."""
    disk = tmp_path / "disk"
    finished = run_on_a_small_disk(disk, 2_000_000, "bundle", *EXPORT_OF_SHARED_GRAPHS, A, disk / "bundle", *WORDS)
    first, second = finished.stderr.split("No space left on device\n")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert first.splitlines()[-1].startswith("error: can't write ") and TRANSFORMER.name in first and "Traceback" not in first
    assert "2 graphs" in second and re.search(r"note: \d files were copied \(.* MB\): ", second)


@pytest.fixture
def other_filesystem() -> Iterator[Path]:
    """A folder on another filesystem than the checkpoint's."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        pytest.skip("no second filesystem is at hand: there is no /dev/shm that may be written to")
    if memory.stat().st_dev == A.stat().st_dev:
        pytest.skip("no second filesystem is at hand: the checkpoint lies on /dev/shm itself")
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_export_to_another_filesystem_copies_and_says_so(
    command: Command, other_filesystem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_components(monkeypatch)
    bundle = other_filesystem / "bundle"
    finished = command("export", A, bundle, *WORDS)
    weights = sorted(path.relative_to(A).as_posix() for path in A.rglob("*.safetensors"))
    assert finished.code == 0 and len(weights) == 3
    size = sum((bundle / name).stat().st_size for name in weights) / 1e6
    reason = "the new folder lies on another filesystem, and no link leads there"
    assert finished.out.splitlines()[1] == f"note: {len(weights)} files were copied ({size:.1f} MB): {reason}"
    for name in weights:
        assert (bundle / name).stat().st_dev != (A / name).stat().st_dev
        assert (bundle / name).read_bytes() == (A / name).read_bytes()
    Bundle.open(bundle).verify()


def hub_settings(home: Path) -> dict[str, str | None]:
    """The environment of someone whose Hugging Face files are in `home`, and who has no network."""
    return {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": None, "HUGGINGFACE_HUB_CACHE": None}


def test_export_of_a_hub_name_finds_it_in_the_cache_and_links_its_blobs(tmp_path: Path) -> None:
    snapshot = in_hub_layout(A, tmp_path / "hf" / "hub", "OmniGen2", "OmniGen2")
    bundle = tmp_path / "bundle"
    words = ("OmniGen2/OmniGen2", bundle, *WORDS)
    finished = run(*EXPORT_OF_SHARED_GRAPHS, *words, environment=hub_settings(tmp_path / "hf"))
    assert finished.returncode == 0, finished.stderr
    assert "copied" not in finished.stdout
    placed = bundle / TRANSFORMER
    assert (snapshot / TRANSFORMER).is_symlink() and not placed.is_symlink()
    assert placed.stat().st_ino == (snapshot / TRANSFORMER).stat().st_ino
    Bundle.open(bundle).verify()


def test_export_of_a_hub_name_that_is_not_in_the_cache_says_so_in_a_line(tmp_path: Path) -> None:
    words = ("export", "OmniGen2/OmniGen2", tmp_path / "bundle")
    finished = run(*COMMAND, *words, environment=hub_settings(tmp_path / "hf"))
    said = "error: 'OmniGen2/OmniGen2' is no directory here, and the Hugging Face cache has no whole copy of it"
    assert finished.returncode == 1 and finished.stderr.startswith(said), finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert not (tmp_path / "bundle").exists() and not any(NAME.fullmatch(path.name) for path in tmp_path.iterdir())
