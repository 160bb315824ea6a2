"""The reflection prompts of a checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from omnigen2_rt.exporter.export import export_bundle
from omnigen2_rt.exporter.processor import REFLECTION, REFLECTION_FILE, reflection_prompts
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BundleError, ExportError
from tests.exporter.checkpoints import FEW, A, copied

OWN = {"critique": "{prompt}: what is wrong?", "edit": "{critique}: mend it", "judge": "{prompt}: grade?", "content": "ok"}


def checkpoint(tmp: Path, text: str) -> Path:
    folder = copied(A, tmp)
    (folder / REFLECTION_FILE).write_text(text, encoding="utf-8")
    return folder


def test_bundle_has_the_checkpoints_own_reflection(tmp_path: Path) -> None:
    export_bundle(checkpoint(tmp_path, json.dumps(OWN)), tmp_path / "bundle", precisions=("fp32",), components=FEW)
    chat = Bundle.open(tmp_path / "bundle").manifest.chat
    assert chat is not None and asdict(chat.reflection) == OWN


def test_prompts_that_a_checkpoint_lacks_are_ours(tmp_path: Path) -> None:
    assert reflection_prompts(A) == REFLECTION
    own = reflection_prompts(checkpoint(tmp_path, json.dumps({"judge": OWN["judge"]})))
    assert asdict(own) == {**asdict(REFLECTION), "judge": OWN["judge"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        (json.dumps({"critic": "{prompt}"}), "critic is unknown or no text; it may hold the texts critique, edit, judge"),
        (json.dumps({"judge": 3}), "judge is unknown or no text"),
        (json.dumps({"critique": "what is wrong?"}), "'critique' does not hold {prompt}"),
        (json.dumps({"judge": "grade?"}), "'judge' does not hold {prompt}"),
        (json.dumps({"edit": "mend it"}), "'edit' holds neither {critique} nor {prompt}"),
        (json.dumps({"content": " "}), "'content' is empty"),
    ],
)
def test_reflection_that_cannot_serve_is_refused_before_anything_is_exported(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ExportError) as error:
        export_bundle(checkpoint(tmp_path, text), tmp_path / "bundle", precisions=("fp32",), components=FEW)
    assert said in str(error.value) and REFLECTION_FILE in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_bundle_with_a_spoiled_reflection_is_refused(tmp_path: Path) -> None:
    export_bundle(A, tmp_path / "bundle", precisions=("fp32",), components=FEW)
    manifest = tmp_path / "bundle" / "bundle.json"
    data = json.loads(manifest.read_text(encoding="utf-8"))
    data["chat"]["reflection"]["content"] = ""
    manifest.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BundleError, match="'content' is empty"):
        Bundle.open(tmp_path / "bundle")
