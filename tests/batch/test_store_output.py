"""An object store as the output of a batch, on obstore's stores in memory and on this disk."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore, MemoryStore

from omnigen2_rt.batch import store as store_module
from omnigen2_rt.batch.outputs import FolderOutput
from omnigen2_rt.batch.store import StoreOutput, open_output
from omnigen2_rt.runtime.errors import OmniGen2Error, RequestError
from tests.batch.doubles import FakePipeline, pictures_in, run, run_into, write_jsonl

PLACE = "s3://bucket/run"


Open = Callable[..., StoreOutput]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens a store as an output; all are closed at the end."""
    outputs: list[StoreOutput] = []

    def open_store(store: Any, clock: Callable[[], float] = lambda: 0.0) -> StoreOutput:
        outputs.append(StoreOutput(store, PLACE, clock))
        return outputs[-1]

    yield open_store
    for output in outputs:
        output.close()


def names_in(store: Any) -> list[str]:
    return sorted(found["path"] for page in store.list() for found in page)


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return MemoryStore()
    (tmp_path / "store").mkdir()
    return LocalStore(prefix=tmp_path / "store")


@pytest.mark.parametrize("name", ["a.png", "a b.png", "猫.png", "50%.png", "a#b+c&d=e~!'().png"])
def test_store_gives_back_what_was_written(store: Any, opened: Open, name: str) -> None:
    output = opened(store)
    assert (output.read(name), output.size(name)) == (None, None)
    output.write(name, b"first")
    output.write(name, b"second")
    output.close()
    again = opened(store)
    assert (again.read(name), again.size(name)) == (b"second", 6)


def test_manifest_comes_back_in_order_over_several_runs(store: Any, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of one second came in any order, and then an older line of a row counted."""
    monkeypatch.setattr(store_module, "PART_LINES", 2)
    now = itertools.count(1_800_000_000_999_999_990, 5)
    monkeypatch.setattr(store_module.time, "time_ns", lambda: next(now))
    lines = [f"{number}\n".encode() for number in range(20)]
    for start in range(0, 20, 4):
        part = lines[start : start + 4]
        output = opened(store)
        for line in part:
            output.append(line)
        output.close()
    assert [*opened(store).lines()] == lines


def test_part_of_the_manifest_is_written_after_a_minute(store: Any, opened: Open) -> None:
    now = [0.0]
    output = opened(store, lambda: now[0])
    output.append(b"1\n")
    assert [*opened(store).lines()] == []
    now[0] = 61.0
    output.append(b"2\n")
    assert [*opened(store).lines()] == [b"1\n", b"2\n"]


def test_batch_into_a_store_has_the_bytes_of_one_into_a_folder(store: Any, opened: Open, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", *({"prompt": "a", "seed": seed} for seed in range(5)))
    run(rows, tmp_path / "out", FakePipeline())
    output = opened(store)
    run_into(output, rows, FakePipeline())
    output.close()
    again = opened(store)
    assert {name: again.read(name) for name in names_in(store) if name.endswith(".png")} == pictures_in(tmp_path / "out")


def test_batch_into_a_store_goes_on_without_reading_pictures(
    store: Any, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", *({"prompt": "a", "seed": seed} for seed in range(5)))
    output = opened(store)
    run_into(output, rows, FakePipeline())
    output.close()
    store.delete("0000003.png")
    read: list[str] = []
    original = StoreOutput.read
    monkeypatch.setattr(StoreOutput, "read", lambda self, name: read.append(name) or original(self, name))
    pipeline = FakePipeline()
    progress, _ = run_into(opened(store), rows, pipeline)
    assert (progress.kept, len(pipeline.prompts)) == (4, 1)
    assert [name for name in read if name.endswith(".png")] == []


def test_batch_that_was_killed_before_it_wrote_its_manifest_keeps_its_pictures(store: Any, opened: Open, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", *({"prompt": "a", "seed": seed} for seed in range(5)))
    run_into(opened(store), rows, FakePipeline())  # never closed: its last lines are lost
    pipeline = FakePipeline()
    output = opened(store)
    progress, _ = run_into(output, rows, pipeline)
    output.close()
    assert (progress.kept, pipeline.prompts) == (5, [])
    assert len([*opened(store).lines()]) == 5


def test_object_of_somebody_else_is_not_replaced(store: Any, opened: Open, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", {"id": "a", "prompt": "a"})
    store.put("a.png", b"mine")
    progress, _ = run_into(opened(store), rows, FakePipeline())
    assert progress.failed == 1 and bytes(store.get("a.png").bytes()) == b"mine"


def test_store_that_cannot_be_written_to_is_refused_at_once(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "manifest").write_text("a file where the store needs a folder")
    with pytest.raises(RequestError, match=f"^'{PLACE}/manifest/.*' can't be used: "):
        opened(LocalStore(prefix=tmp_path))


def test_output_by_name_is_a_folder_or_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore.store

    monkeypatch.setattr(obstore.store, "from_url", lambda url: MemoryStore())
    assert isinstance(open_output(PLACE), StoreOutput)
    folder = open_output(str(tmp_path / "out"))
    assert isinstance(folder, FolderOutput)
    folder.close()


@pytest.mark.parametrize("place", ["http://x/y", "memory://", "S3://x", "file:///x", "://"])
def test_output_of_an_unknown_kind_is_refused(place: str) -> None:
    with pytest.raises(RequestError, match="is no folder and begins with none of s3://, gs://, az://"):
        open_output(place)


def test_store_without_obstore_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(OmniGen2Error, match=r'need obstore: pip install "omnigen2-rt\[stores\]"'):
        open_output(PLACE)


def test_store_whose_settings_are_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(RequestError) as refusal:
        open_output("az://container")
    assert str(refusal.value) == "'az://container' can't be used: Generic MicrosoftAzure error: Account must be specified"
