"""Open bundles: shared by equal settings, closed when no output holds them, loaded one at a time."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt import BackendError, BundleError, Pipeline, RequestError
from omnigen2_rt.runtime.load_options import LoadOptions
from tests.comfyui.prompts import bundle, draw_and_save, drawing, save
from tests.comfyui.running import Comfy


def settings(comfy: Comfy, folder: Path, memory_limit_bytes: int | None = None, **fields: Any) -> Any:
    """Settings of a bundle on one thread of a CPU."""
    options = LoadOptions(backend="ort-cpu", precision="fp32", threads=1, memory_limit_bytes=memory_limit_bytes)
    own = {"digest": comfy.module("bundles").content_digest(folder), "options": options}
    return comfy.module("open_bundles").BundleSettings(**{"folder": folder, **own, **fields})


def opened(comfy: Comfy) -> list[Any]:
    """Every bundle that is open."""
    gc.collect()
    return list(comfy.module("open_bundles")._open.values())


@pytest.fixture
def copy_of_nano(nano: Pipeline, tmp_path: Path) -> Path:
    return Path(shutil.copytree(nano.bundle.path, tmp_path / "copy"))


def test_loaders_of_equal_settings_share_a_bundle(comfy: Comfy, nano: Pipeline) -> None:
    open_bundle, same = comfy.module("open_bundles").open_bundle, settings(comfy, nano.bundle.path)
    first = open_bundle(same)
    assert open_bundle(settings(comfy, nano.bundle.path)) is first
    assert open_bundle(settings(comfy, nano.bundle.path, memory_limit_bytes=10**9)) is not first


def test_bundle_is_closed_when_nothing_holds_it(comfy: Comfy, nano: Pipeline) -> None:
    held = comfy.module("open_bundles").open_bundle(settings(comfy, nano.bundle.path))
    with held.pipeline() as pipeline:
        pipeline.encode_prompt("a large red circle")
        sessions = pipeline.components.sessions
    del held, pipeline
    gc.collect()
    assert not opened(comfy)
    with pytest.raises(RequestError, match="closed"):
        sessions.run("token_embedding", {})


def test_bundle_stays_open_between_workflows_and_follows_them(comfy: Comfy) -> None:
    comfy.run(draw_and_save())
    (first,) = [weakref.ref(each) for each in opened(comfy)]
    comfy.run(draw_and_save(seed=8))
    assert [weakref.ref(each) for each in opened(comfy)] == [first]
    comfy.run(draw_and_save(bundle(memory_limit_gb=1.0)))
    assert first() is None and len(opened(comfy)) == 1
    comfy.forget()
    assert not opened(comfy)


def test_only_the_bundle_that_was_used_last_keeps_its_components(comfy: Comfy, copy_of_nano: Path) -> None:
    """Two of the full size would not fit together; a workflow with two loads them in turn."""
    prompt = {
        **draw_and_save(),
        "load other": bundle(folder=str(copy_of_nano)),
        "edit": drawing("make the circle green", bundle=["load other", 0], image_1=["draw", 0]),
        "save edit": save("edited", "edit"),
    }
    comfy.run(prompt)
    loaded = {each.settings.folder: bool(each.loaded_components) for each in opened(comfy)}
    assert len(loaded) == 2 and [folder for folder in loaded if loaded[folder]] == [copy_of_nano]


def test_bundle_that_was_exported_anew_is_opened_anew(comfy: Comfy, copy_of_nano: Path) -> None:
    load = bundle(folder=str(copy_of_nano))
    comfy.run(draw_and_save(load))
    assert "load" not in comfy.run(draw_and_save(load)).ran
    manifest = copy_of_nano / "bundle.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "source": "another export"}))
    again = comfy.run(draw_and_save(load))
    assert {"load", "draw"} <= {*again.ran}
    (one,) = opened(comfy)
    with one.pipeline() as pipeline:
        assert pipeline.bundle.manifest.source == "another export"


@pytest.mark.parametrize("keeps", [True, False])
def test_components_stay_loaded_between_nodes_only_if_they_are_kept(comfy: Comfy, keeps: bool) -> None:
    comfy.run(draw_and_save(bundle(keep_loaded=keeps)))
    (one,) = opened(comfy)
    assert bool(one.loaded_components) == keeps


def test_failed_engine_is_opened_anew(comfy: Comfy, nano: Pipeline) -> None:
    held = comfy.module("open_bundles").open_bundle(settings(comfy, nano.bundle.path))
    with pytest.raises(BackendError), held.pipeline() as pipeline:
        pipeline.encode_prompt("a large red circle")
        raise BackendError("out of memory")
    assert not held.loaded_components
    with held.pipeline() as pipeline:
        pipeline.encode_prompt("a large red circle")


def test_bundle_is_used_by_one_thread_at_a_time(comfy: Comfy, nano: Pipeline) -> None:
    held, inside, problems = comfy.module("open_bundles").open_bundle(settings(comfy, nano.bundle.path)), [], list[str]()

    def use() -> None:
        for _ in range(3):
            with held.pipeline() as pipeline:
                inside.append(threading.get_ident())
                pipeline.encode_prompt("a large red circle")
                if {*inside} != {threading.get_ident()}:
                    problems.append("two threads at once")
                inside.clear()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_bundle_that_is_not_there_is_refused_in_one_line(comfy: Comfy, tmp_path: Path) -> None:
    error = comfy.run(draw_and_save(bundle(folder=str(tmp_path)))).error
    assert "is not a bundle" in error and len(error.strip().splitlines()) == 1


def test_names_are_nano_and_the_bundles_below_the_models_folder(comfy: Comfy, nano: Pipeline) -> None:
    bundles, folder = comfy.module("bundles"), comfy.models / "omnigen2"
    try:
        assert bundles.bundle_names() == ["nano"]
        for name in ("zebra", "ant", "nano"):
            shutil.copytree(nano.bundle.path, folder / name)
        (folder / "no bundle").mkdir()
        assert bundles.bundle_names() == ["nano", "ant", "zebra"]
        assert bundles.bundle_folder("zebra") == folder / "zebra"
        assert bundles.bundle_folder("nano") == nano.bundle.path
        assert bundles.bundle_folder("nano", str(folder / "ant")) == folder / "ant"
        assert comfy.info("OmniGen2RTLoadBundle")["input"]["required"]["bundle"][1]["options"] == ["nano", "ant", "zebra"]
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("lost", "", r"bundle 'lost' is not in models/omnigen2; it has nano"),
        ("nano", "somewhere", r"folder 'somewhere' is not an absolute path"),
    ],
)
def test_name_that_is_unknown_or_relative_is_refused(comfy: Comfy, name: str, folder: str, message: str) -> None:
    """A relative path would depend on where ComfyUI was started."""
    with pytest.raises(BundleError, match=message):
        comfy.module("bundles").bundle_folder(name, folder)
