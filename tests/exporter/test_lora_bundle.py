"""Bundles with merged LoRAs: equal to exports with these LoRAs, made once, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from omnigen2_rt import Request, load
from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.export import export_bundle
from omnigen2_rt.exporter.lora_bundle import Lora, merged_bundle
from omnigen2_rt.exporter.lora_store import KEY, WORK, stored_bundles
from omnigen2_rt.exporter.staging import Work, open_staging
from omnigen2_rt.exporter.weights import lora_file
from omnigen2_rt.exporter.weights.tensor_file import NewTensor, read_tensor, write_tensors
from omnigen2_rt.runtime.backends import exchange_arrays
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError, BundleError, ExportError
from omnigen2_rt.runtime.files.hashes import file_hash
from omnigen2_rt.runtime.files.safetensors_header import read_header
from omnigen2_rt.runtime.manifest import MANIFEST, Manifest
from omnigen2_rt.runtime.pipeline import NANO
from tests.exporter.checkpoints import TRANSFORMER, A
from tests.exporter.merged_loras import MODULES, files_below, killed_merge, merging_process, nano_lora
from tests.runtime.goldens import CPU_BACKENDS, GOLDENS

GOLDEN_LORA = GOLDENS / "A" / "golden" / "inputs" / "lora"
MERGED = "transformer/merged_lora.safetensors"


def stored_as(dtype: str, folder: Path) -> Path:
    """Checkpoint A with its transformer's weights stored in another type."""
    checkpoint = Path(shutil.copytree(A, folder))
    places = read_header(A / TRANSFORMER)
    tensors = {
        name: NewTensor(dtype=dtype, shape=place.shape, values=lambda place=place: read_tensor(place))  # type: ignore[misc]
        for name, place in places.items()
    }
    write_tensors(checkpoint / TRANSFORMER, tensors)
    return checkpoint


def graph_without_notes(file: Path) -> bytes:
    """A graph without what PyTorch notes of values: an export keeps that of weights which no Cast follows."""
    model = onnx.load(file, load_external_data=False)
    for info in model.graph.value_info:
        info.ClearField("metadata_props")
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("dtype", "precisions", "materialized"),
    [("F32", ("fp32", "fp16"), False), ("BF16", ("fp32", "bf16"), False), ("BF16", ("fp32",), True)],
    ids=["float32", "bfloat16", "materialized"],
)
def test_merged_bundle_has_the_weights_and_graphs_of_an_export_with_the_lora(
    dtype: str, precisions: tuple[str, ...], materialized: bool, tmp_path: Path
) -> None:
    """Materialized bundles are only compared in their merged weights: an export converts those too."""
    checkpoint = stored_as(dtype, tmp_path / "checkpoint")
    loras = [Lora(path=GOLDEN_LORA, scale=0.7)]
    for folder, lora in (("plain", []), ("exported", loras)):
        export_bundle(
            checkpoint,
            tmp_path / folder,
            precisions=precisions,
            lora=lora,
            materialized=materialized,
            components=[component for component in COMPONENTS if component.part == "transformer"],
        )
    merged, exported = Bundle.open(merged_bundle(tmp_path / "plain", loras).path), Bundle.open(tmp_path / "exported")
    assert (merged.path / MERGED).read_bytes() == (exported.path / MERGED).read_bytes()
    if not materialized:
        assert merged.hashes.keys() == exported.hashes.keys()
        for name in (name for name in merged.hashes if name.endswith(".onnx")):
            assert graph_without_notes(merged.path / name) == graph_without_notes(exported.path / name), name
        sizes = [{spec.file: spec.weight_bytes for spec in bundle.manifest.graphs} for bundle in (merged, exported)]
        assert sizes[0] == sizes[1] and merged.manifest.loras == exported.manifest.loras
        merged.verify()


def test_merged_bundle_draws_what_an_export_with_the_lora_draws(bundles: dict[str, Path], tmp_path: Path) -> None:
    loras = [Lora(path=GOLDEN_LORA), Lora(path=GOLDEN_LORA, scale=-0.5)]
    export_bundle(A, tmp_path / "exported", precisions=("fp32",), lora=loras)
    merged = merged_bundle(bundles["A"], loras, folder=tmp_path / "store").path
    request = Request(prompt="a red fox", width_px=32, height_px=32, steps=2)
    latents = []
    for bundle in (merged, tmp_path / "exported", bundles["A"]):
        with load(bundle, backend="ort-cpu", precision="fp32", threads=1) as pipeline:
            result = pipeline.generate(request)
            latents.append(result.latents.tobytes())
            assert [lora.scale for lora in result.loras] == ([] if bundle == bundles["A"] else [1, -0.5])
    assert latents[0] == latents[1] != latents[2]


def test_merged_bundle_draws_alike_on_another_backend(tmp_path: Path) -> None:
    """OpenVINO reads the graphs' twins without functions."""
    merged = merged_bundle(NANO, [Lora(path=nano_lora(tmp_path / "a.safetensors"))], folder=tmp_path / "store").path
    request = Request(prompt="a large red circle on a blue background", steps=3, seed=1)
    drawn = {}
    for bundle in (NANO, merged):
        with load(bundle, backend="ort-cpu", precision="fp32", threads=1) as pipeline:
            drawn[bundle] = pipeline.generate(request).latents
    assert np.abs(drawn[NANO] - drawn[merged]).max() > 0.05
    with load(merged, backend="openvino", precision="fp32", threads=1) as pipeline:
        np.testing.assert_allclose(pipeline.generate(request).latents, drawn[merged], atol=1e-3)


def test_merging_writes_the_changed_weights_and_graphs_and_links_the_rest(tmp_path: Path) -> None:
    original = shutil.copytree(NANO, tmp_path / "bundle")
    merged = merged_bundle(original, [Lora(path=nano_lora(tmp_path / "a.safetensors"))])
    before, after = files_below(original), files_below(merged.path)
    written = {name for name in after if name not in before or before[name].st_ino != after[name].st_ino}
    graphs = {name for name in written if name.endswith(".onnx")}
    assert written - graphs == {MANIFEST, MERGED} and not merged.copied
    assert {name.partition(".")[0] for name in graphs} == {"transformer", "context_refiner", "velocity_head"}
    weights = sum(4 * np.prod(place.shape) for place in read_header(merged.path / MERGED).values())
    assert {*read_header(merged.path / MERGED)} == {f"{module}.weight" for module in MODULES}
    assert weights < after[MERGED].st_size == merged.written_bytes < weights + 1000
    Bundle.open(merged.path).verify()


def test_second_call_writes_nothing(tmp_path: Path) -> None:
    loras = [Lora(path=nano_lora(tmp_path / "a.safetensors"), scale=0.5)]
    first = merged_bundle(NANO, loras, folder=tmp_path / "store")
    before = {name: (state.st_mtime_ns, state.st_ino) for name, state in files_below(tmp_path / "store").items()}
    second = merged_bundle(NANO, loras, folder=tmp_path / "store", progress=lambda *words: pytest.fail(str(words)))
    assert first.is_new and not second.is_new and first.path == second.path and KEY.fullmatch(first.path.name)
    assert {name: (state.st_mtime_ns, state.st_ino) for name, state in files_below(tmp_path / "store").items()} == before


def test_another_content_scale_order_or_bundle_is_another_merged_bundle(tmp_path: Path) -> None:
    store, file, other = tmp_path / "store", tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    a, b = Lora(path=nano_lora(file)), Lora(path=nano_lora(other, seed=1))
    paths = [merged_bundle(NANO, loras, folder=store).path for loras in ([a], [Lora(path=file, scale=0.9)], [a, b], [b, a])]
    nano_lora(file, seed=2)
    paths.append(merged_bundle(NANO, [a], folder=store).path)
    assert len(stored_bundles(NANO, store)) == len(paths)
    bundle = shutil.copytree(NANO, tmp_path / "bundle")
    (bundle / MANIFEST).write_text(replace(Bundle.open(NANO).manifest, source="another").to_json())
    paths.append(merged_bundle(bundle, [a], folder=store).path)
    assert len({*paths}) == len(paths)


def test_renamed_file_finds_the_same_merged_bundle_and_changes_nothing_in_it(tmp_path: Path) -> None:
    first = merged_bundle(NANO, [Lora(path=nano_lora(tmp_path / "a.safetensors"))], folder=tmp_path / "store")
    before = (first.path / "bundle.json").read_bytes()
    renamed = (tmp_path / "a.safetensors").rename(tmp_path / "watercolour.safetensors")
    second = merged_bundle(NANO, [Lora(path=renamed)], folder=tmp_path / "store")
    assert second.path == first.path and not second.is_new
    assert (second.path / "bundle.json").read_bytes() == before


def test_settings_of_peft_count_as_content(tmp_path: Path) -> None:
    file = nano_lora(tmp_path / "adapter_model.safetensors")
    paths = []
    for alpha in (4, 8):
        (tmp_path / "adapter_config.json").write_text(f'{{"peft_type": "LORA", "r": 4, "lora_alpha": {alpha}}}')
        paths.append(merged_bundle(NANO, [Lora(path=tmp_path)], folder=tmp_path / "store").path)
    assert paths[0] != paths[1] and file.exists()
    assert [lora.name for lora in stored_bundles(NANO, tmp_path / "store")[0].loras] == [tmp_path.name]


def test_merging_into_a_merged_bundle_equals_merging_both(tmp_path: Path) -> None:
    """The second changes a weight that the first changed, and one that it did not."""
    a = Lora(path=nano_lora(tmp_path / "a.safetensors", modules=MODULES[:2]))
    b = Lora(path=nano_lora(tmp_path / "b.safetensors", seed=1, modules=MODULES[1:3]))
    together = merged_bundle(NANO, [a, b], folder=tmp_path / "store").path
    one = merged_bundle(NANO, [a], folder=tmp_path / "store").path
    both = Bundle.open(merged_bundle(one, [b]).path)
    assert both.path.parent == one.with_name(f"{one.name}.loras")
    assert both.manifest.loras == Bundle.open(together).manifest.loras
    merged = load_file(together / MERGED)
    assert {*merged} == {f"{module}.weight" for module in MODULES[:3]}
    for name, values in load_file(both.path / "transformer/merged_lora_2.safetensors").items():
        assert values.tobytes() == merged[name].tobytes()
    drawn = []
    for bundle in (together, both.path):
        with load(bundle, backend="ort-cpu", precision="fp32", threads=1) as pipeline:
            drawn.append(pipeline.generate(Request(prompt="a red circle", steps=2)).latents.tobytes())
    assert drawn[0] == drawn[1]


def test_two_processes_at_once_make_one_bundle_and_both_get_it(tmp_path: Path) -> None:
    file = nano_lora(tmp_path / "a.safetensors")
    processes = [merging_process(file, tmp_path / "store") for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    (made, path), (found, same) = sorted(answer.split() for answer, _ in answers)
    assert (made, found) == ("False", "True") and path == same
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == [Path(path).name]
    Bundle.open(path).verify()


def test_merge_waits_while_another_process_writes_the_same(tmp_path: Path) -> None:
    loras = [Lora(path=nano_lora(tmp_path / "a.safetensors"))]
    target = tmp_path / "store" / merged_bundle(NANO, loras, folder=tmp_path / "elsewhere").path.name
    phases: Queue[str] = Queue()
    with ThreadPoolExecutor(1) as thread, open_staging(Work(WORK, target, "another", [], {})):
        waiting = thread.submit(merged_bundle, NANO, loras, folder=target.parent, progress=lambda *words: phases.put(words[2]))
        assert [phases.get(timeout=60) for _ in range(2)] == ["waiting for another process, which merges the same"] * 2
        assert not target.exists()
    assert waiting.result().path == target and waiting.result().is_new


@pytest.mark.parametrize("phase", ["merging LoRAs", "placing files"])
def test_killed_merge_leaves_nothing_that_is_taken_for_a_bundle(phase: str, tmp_path: Path) -> None:
    store, file = tmp_path / "store", nano_lora(tmp_path / "a.safetensors")
    killed_merge(file, store, phase)
    assert len(list(store.iterdir())) == 1 and not stored_bundles(NANO, store)
    nano_lora(file, seed=1)  # another key: the leftover goes all the same
    merged = merged_bundle(NANO, [Lora(path=file)], folder=store)
    assert merged.is_new and [entry.name for entry in store.iterdir()] == [merged.path.name]


@pytest.mark.parametrize("phase", ["merging LoRAs", "placing files"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
def test_merge_that_is_interrupted_or_fills_the_disk_leaves_nothing(phase: str, error: BaseException, tmp_path: Path) -> None:
    def fail(done: int, total: int, what: str) -> None:
        if what == phase and done:
            raise error

    loras = [Lora(path=nano_lora(tmp_path / "a.safetensors"))]
    with pytest.raises((ExportError, KeyboardInterrupt), match="No space left on device|") as raised:
        merged_bundle(NANO, loras, folder=tmp_path / "store", progress=fail)
    assert isinstance(raised.value, ExportError) == isinstance(error, OSError)
    assert not list((tmp_path / "store").iterdir())


def test_lora_that_changes_while_it_is_merged_is_refused(tmp_path: Path) -> None:
    file = nano_lora(tmp_path / "a.safetensors")

    def change(done: int, total: int, what: str) -> None:
        if what == "placing files":
            nano_lora(file, seed=1)

    with pytest.raises(ExportError, match="or a LoRA has changed while they were merged: try again"):
        merged_bundle(NANO, [Lora(path=file)], folder=tmp_path / "store", progress=change)
    assert not list((tmp_path / "store").iterdir())


def test_quantized_bundle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    manifest = Bundle.open(NANO).manifest
    rounded = tuple(replace(graph, rounded_bytes=graph.resident_bytes) for graph in manifest.graphs)
    bundle = Bundle(NANO, replace(manifest, graphs=rounded))
    with pytest.raises(ExportError, match="is quantized, and no LoRA .*`omnigen2 lora BUNDLE --lora FILE`.*quantize the result"):
        merged_bundle(bundle, [Lora(path=nano_lora(tmp_path / "a.safetensors"))])


def of_another_model(folder: Path) -> Path:
    file = nano_lora(folder / "a.safetensors", modules=MODULES[:1])
    save_file({name.replace("layers.0", "layers.90"): values for name, values in load_file(file).items()}, file)
    return file


def too_strong(folder: Path) -> Path:
    return nano_lora(folder / "a.safetensors", strength=1e20)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda folder: folder / "nowhere", "nowhere' does not exist"),
    "empty folder": (lambda folder: folder, r"does not exist \(pytorch_lora_weights.safetensors or adapter_model"),
    "another model": (of_another_model, "changes 'layers.90.attn.to_q', which this transformer has not: is it for another model"),
    "too strong": (too_strong, "the LoRA gives numbers beyond .*: use a smaller scale"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_lora_that_can_not_be_merged_is_refused_and_leaves_nothing(
    make: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    (tmp_path / "loras").mkdir()
    with pytest.raises(ExportError, match=message):
        merged_bundle(NANO, [Lora(path=make(tmp_path / "loras"))], folder=tmp_path / "store")
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").iterdir())


def test_graph_that_reads_a_merged_weight_elsewhere_is_refused(tmp_path: Path) -> None:
    """A part of the model would otherwise draw without the LoRA."""
    bundle = shutil.copytree(NANO, tmp_path / "bundle")
    file, name = bundle / "velocity_head.fp32.onnx", f"{MODULES[3]}.weight"
    model = onnx.load(file, load_external_data=False)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    constant = model.graph.node.add(op_type="Constant", output=["unread"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=weight)
    file.write_bytes(model.SerializeToString())
    manifest = Manifest.from_json((bundle / MANIFEST).read_text(), MANIFEST)
    graphs = [replace(graph, sha256=file_hash(file)) if graph.file == file.name else graph for graph in manifest.graphs]
    (bundle / MANIFEST).write_text(replace(manifest, graphs=tuple(graphs)).to_json())
    with pytest.raises(ExportError, match=f"velocity_head.fp32.onnx' reads '{name}' in a form that isn't known here"):
        merged_bundle(bundle, [Lora(path=nano_lora(tmp_path / "a.safetensors"))])
    assert not list((tmp_path / "bundle.loras").iterdir())


def test_merging_without_a_lora_or_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no LoRA is given to merge"):
        merged_bundle(NANO, [])
    with pytest.raises(BundleError, match="is not a bundle"):
        merged_bundle(tmp_path, [Lora(path=nano_lora(tmp_path / "a.safetensors"))])


@pytest.mark.parametrize("moment", ["reading the header", "merging LoRAs"])
def test_lora_that_is_cut_short_meanwhile_is_one_clear_line(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended in a ValueError of numpy's, or would have ended the process where the file was mapped."""
    file = nano_lora(tmp_path / "a.safetensors")
    size = file.stat().st_size

    def cut(*words: object) -> None:
        if moment in words:
            os.truncate(file, size - 1000)

    read = lora_file.read_annotated_header
    if moment == "reading the header":
        monkeypatch.setattr(lora_file, "read_annotated_header", lambda path: (read(path), cut(moment))[0])
    with pytest.raises(ExportError, match="^LoRA '.*a.safetensors' was cut short while it was read: try again when") as error:
        merged_bundle(NANO, [Lora(path=file)], folder=tmp_path / "store", progress=cut)
    assert "\n" not in str(error.value) and not [*(tmp_path / "store").glob("*")]


def test_damaged_merged_bundle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    loras = [Lora(path=nano_lora(tmp_path / "a.safetensors"))]
    merged = merged_bundle(NANO, loras, folder=tmp_path / "store").path
    other = merged_bundle(NANO, [Lora(path=nano_lora(tmp_path / "b.safetensors", seed=1))], folder=tmp_path / "store").path
    merged.rename(tmp_path / "moved")
    other.rename(merged)
    with pytest.raises(ExportError, match=f"{merged.name}' isn't the merged bundle of that name: move it away"):
        merged_bundle(NANO, loras, folder=tmp_path / "store")
    merged.rename(other)
    (tmp_path / "moved").rename(merged)
    (merged / MERGED).write_bytes(b"cut")
    with pytest.raises(ExportError, match="a merged bundle is damaged, delete its folder to have it made again: .*merged_lora"):
        merged_bundle(NANO, loras, folder=tmp_path / "store")


def test_pipelines_share_components_only_where_one_takes_the_others_arrays(tmp_path: Path) -> None:
    def backend(name: str, precision: str = "fp32") -> Any:
        return SimpleNamespace(name=name, precision=precision, graph_precision=precision)

    assert exchange_arrays(backend("ort-cuda"), backend("ort-cuda")) and exchange_arrays(backend("openvino"), backend("openvino"))
    assert not exchange_arrays(backend("ort-cpu"), backend("openvino"))
    assert not exchange_arrays(backend("ort-cuda"), backend("ort-cuda", "bf16"))
    assert not exchange_arrays(backend("tensorrt"), backend("tensorrt"))
    merged = merged_bundle(NANO, [Lora(path=nano_lora(tmp_path / "a.safetensors"))], folder=tmp_path / "store").path
    with pytest.raises(BackendError, match="shares must be a Pipeline, as load gives it, not str"):
        load(merged, shares="nano")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_pipeline_of_a_merged_bundle_runs_what_it_shares_in_the_original_one(backend: str, tmp_path: Path) -> None:
    """Most of a model is its language model, which LoRAs leave as it is: it is loaded once for all styles."""
    merged = merged_bundle(NANO, [Lora(path=nano_lora(tmp_path / "a.safetensors"))], folder=tmp_path / "store").path
    request = Request(prompt="a large red circle on a blue background", steps=2)
    with load(merged, backend=backend, precision="fp32", threads=1) as alone:
        expected = alone.generate(request).latents
    with load(NANO, backend=backend, precision="fp32", threads=1) as original:
        style = load(merged, backend=backend, precision="fp32", threads=1, shares=original)
        assert style.generate(request).latents.tobytes() == expected.tobytes()
        own = {opening.component for opening in style.components.sessions.openings}
        lent = {opening.component for opening in original.components.sessions.openings}
        assert own == {"transformer", "context_refiner", "velocity_head"}
        assert lent == {"token_embedding", "language_model", "timestep_embedding", "latent_embedder", "vae_decoder"}
        style.close()
        assert not original.components.sessions.open_components
        assert style.generate(request).latents.tobytes() == expected.tobytes()
