"""`omnigen2 batch --ray` on a cluster of two nodes on this machine: the command is killed, then a node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.batch.doubles import manifest_of, pictures_in, write_jsonl
from tests.commands.processes import COMMAND, run, start
from tests.distributed.clusters import with_nodes

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

QUICK = ("--backend", "ort-cpu", "--threads", 1, "--default", "steps=1", "--default", "width_px=32", "--default", "height_px=32")


@pytest.fixture
def nodes(cluster: Any) -> Iterator[list[Any]]:
    """Two nodes with a CPU each."""
    with with_nodes(cluster, {"num_cpus": 1}, {"num_cpus": 1}) as nodes:
        yield nodes


def sixty_rows(folder: Path) -> Path:
    """Sixty rows, of which two are bad and one has an image."""
    Image.new("RGB", (32, 32), "tan").save(folder / "in.png")
    rows: list[dict[str, Any]] = [{"prompt": f"a circle, {number}", "seed": number} for number in range(60)]
    rows[0]["images"] = ["in.png"]
    rows[10]["steps"] = 0
    rows[50]["id"] = "../50"
    return write_jsonl(folder / "rows.jsonl", *rows)


def wait_for(pictures: int, folder: Path, process: Any) -> None:
    deadline = time.monotonic() + 120
    while len([*folder.glob("*.png")]) < pictures:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)


def test_batch_on_ray_survives_the_death_of_its_driver_and_of_a_node(cluster: Any, nodes: list[Any], tmp_path: Path) -> None:
    rows, out = sixty_rows(tmp_path), tmp_path / "out"
    words = (*COMMAND, "batch", rows, out, *QUICK)
    process = start(*words, "--ray", cluster.address, cwd=tmp_path)
    wait_for(20, out, process)
    process.kill()
    process.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}

    process = start(*words, "--ray", cluster.address, cwd=tmp_path)
    wait_for(len(before) + 10, out, process)
    cluster.remove_node(nodes[0], allow_graceful=False)
    said, errors = process.communicate(timeout=120)

    assert process.returncode == 1, errors
    assert "\x1b" not in said + errors and "raylet" not in said + errors  # nothing in Ray's own words
    assert f"60 rows: {58 - len(before)} drawn, {len(before)} were there, 2 failed" in said
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(after) == 58 and before.items() <= after.items()
    lines = manifest_of(out)
    assert sorted(line["row"] for line in lines) == [*range(1, 61)]
    assert {line["row"] for line in lines if line["error"]} == {11, 51}
    assert sorted(path.name for path in out.iterdir() if path.suffix != ".png") == ["manifest.jsonl"]

    run(*COMMAND, "batch", rows, tmp_path / "here", *QUICK)
    assert pictures_in(out) == pictures_in(tmp_path / "here")
