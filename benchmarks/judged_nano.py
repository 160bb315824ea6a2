"""nano against nano with 4-bit weights, drawn and judged as OmniContext is: does the paired difference say what its scorer says?

    python benchmarks/judged_nano.py --samples 50 --json benchmarks/results/judged_nano.json

Makes a set of nano's world in OmniContext's format, quantizes nano, and runs `omnigen2 eval omnicontext` on both with a judge on
loopback that reads pictures with nano's own reader. Needs [cpu,export]; takes minutes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omnigen2_rt.commands.bench import machine_facts
from omnigen2_rt.evaluation.pictures import judged_input, picture_path
from omnigen2_rt.evaluation.samples import Sample
from omnigen2_rt.nano.judging.judge import find_task_mistakes
from omnigen2_rt.nano.judging.picture_reader import read_picture
from omnigen2_rt.nano.scores import wilson
from omnigen2_rt.nano.tasks.drawing_tasks import gather, transplant
from omnigen2_rt.nano.tasks.edits import edit
from omnigen2_rt.nano.tasks.task_types import DrawingTask
from omnigen2_rt.nano.world.render import render
from omnigen2_rt.nano.world.scenes import Sampler, Scene, is_held_out

SUBTASKS = {"single_object": edit, "multi_object": gather, "scene_object": transplant}
"""The subtasks that mean something in nano's world, which has no persons."""
SETTINGS = ("--size", "128", "--steps", "20", "--text-guidance", "2.5", "--image-guidance", "1.5", "--negative-prompt", "")
SEED = 7
MODEL = "nano-reader"


def make_tasks(samples: int, seed: int = SEED) -> dict[str, tuple[str, DrawingTask]]:
    """Random tasks, `samples` of each subtask, by key: the subtask and the task."""
    tasks = {}
    for row, (name, make) in enumerate(SUBTASKS.items()):
        sampler = Sampler(np.random.SeedSequence([seed, row]))
        made: list[DrawingTask] = []
        while len(made) < samples:
            task = make(sampler)
            if isinstance(task.target, Scene) and not is_held_out(task.target):  # a landscape has no things
                made.append(task)
        tasks |= {f"{name}-{number:03}": (name, task) for number, task in enumerate(made)}
    return tasks


def write_set(folder: Path, tasks: dict[str, tuple[str, DrawingTask]]) -> list[Sample]:
    """Write the tasks in OmniContext's format: data.jsonl beside pictures/. Returns the samples."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows, samples = [], []
    for key, (subtask, task) in tasks.items():
        names = [f"pictures/{key}-{number}.png" for number in range(len(task.inputs))]
        for name, scene in zip(names, task.inputs, strict=True):
            render(scene).save(folder / name)
        facts = {"key": key, "task_type": subtask, "instruction": task.prompt}
        rows.append({**facts, "instruction_language": "en", "input_images": names})
        samples.append(Sample(key=key, task=subtask, instruction=task.prompt, inputs=tuple(folder / name for name in names)))
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return samples


class NanoJudge:
    """Answers as a judge of OmniContext from what nano's reader sees. It knows the tasks by their words and input pictures."""

    def __init__(self, samples: Sequence[Sample], tasks: dict[str, tuple[str, DrawingTask]]) -> None:
        self._tasks = {_key(each.instruction, map(judged_input, each.inputs)): tasks[each.key][1] for each in samples}

    def answer(self, text: str, pictures: Sequence[bytes]) -> str:
        """The answer to a question: the rubric's text, and the JPEG files of the inputs and of the output."""
        instruction = text.partition("The instruction:\n")[2].partition("\n\nAnswer with")[0]
        task = self._tasks[_key(instruction, pictures[:-1])]
        with Image.open(io.BytesIO(pictures[-1])) as output:
            score, reason = (_following if "does the result show" in text else _consistency)(output, task)
        return json.dumps({"reasoning": reason, "score": score})


def _key(instruction: str, pictures: Any) -> str:
    return f"{instruction} {[hashlib.sha256(picture).hexdigest() for picture in pictures]}"


def _following(output: Image.Image, task: DrawingTask) -> tuple[int, str]:
    mistakes = find_task_mistakes(output, task)
    return (max(0, 8 - 2 * len(mistakes)), "; ".join(mistakes)) if mistakes else (10, "everything is right")


def _consistency(output: Image.Image, task: DrawingTask) -> tuple[int, str]:
    """The share of the target's things that are in the picture, in the colour and shape that they have."""
    assert isinstance(task.target, Scene)
    wanted = Counter((thing.colour, thing.shape) for thing in task.target.things)
    found = wanted & Counter((thing.colour, thing.shape) for thing in read_picture(output).things)
    return round(10 * found.total() / wanted.total()), f"{found.total()} of {wanted.total()} things are there"


def picture_bytes(url: str) -> bytes:
    """The file in a data URL."""
    return base64.b64decode(url.partition(",")[2])


@contextmanager
def judge_server(judge: NanoJudge) -> Iterator[str]:
    """A judge on loopback. Yields the address of its endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
            text = "\n".join(part["text"] for part in content if part["type"] == "text")
            pictures = [picture_bytes(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
            message = {"role": "assistant", "content": judge.answer(text, pictures)}
            body = json.dumps({"model": MODEL, "choices": [{"finish_reason": "stop", "message": message}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def own_scores(out: Path, name: str, samples: Sequence[Sample], tasks: dict[str, tuple[str, DrawingTask]]) -> dict[str, Any]:
    """The share of a model's pictures that nano's scorer calls right, of each subtask and the mean of these."""
    rights: dict[str, list[bool]] = {}
    for sample in samples:
        with Image.open(picture_path(out / name, sample)) as picture:
            rights.setdefault(sample.task, []).append(not find_task_mistakes(picture, tasks[sample.key][1]))
    shares = {task: sum(each) / len(each) for task, each in rights.items()}
    every = [right for each in rights.values() for right in each]
    return {"subtasks": shares, "average": sum(shares.values()) / len(shares), "interval": wilson(sum(every), len(every))}


def quantized(target: Path) -> None:
    """Write nano with 4-bit weights, by the command's own scheme, without the command's scores."""
    from omnigen2_rt.exporter.quantize.bundle import quantize_bundle
    from omnigen2_rt.runtime.pipeline import bundle_path

    quantize_bundle(bundle_path("nano"), target, "int4-weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50, help="of each of the three subtasks")
    parser.add_argument("--work", type=Path, help="keep the set, the bundle and the results here; go on with them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        tasks = make_tasks(options.samples)
        samples = write_set(work / "set", tasks)
        if not (work / "int4").exists():
            quantized(work / "int4")
        bundles = ("--bundle", str(work / "int4"), "--against", "nano", "--backend", "ort-cpu", "--precision", "fp32")
        command = ["eval", "omnicontext", str(work / "set"), *bundles, "--out", str(work / "results"), *SETTINGS]
        with judge_server(NanoJudge(samples, tasks)) as url:
            asked = ("--judge", url, "--judge-model", MODEL, "--allow-incomplete", "--json", str(work / "scores.json"))
            subprocess.run([sys.executable, "-m", "omnigen2_rt", *command, *asked], check=True)
        judged = json.loads((work / "scores.json").read_text())
        own = {name: own_scores(work / "results", name, samples, tasks) for name in ("int4", "nano")}
    facts = {
        **machine_facts(),
        "samples_of_each_subtask": options.samples,
        "settings": dict(zip(SETTINGS[::2], SETTINGS[1::2], strict=True)),
        "judged": judged,
        "own_scorer": {**own, "difference": own["int4"]["average"] - own["nano"]["average"]},
    }
    print(json.dumps(facts, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
