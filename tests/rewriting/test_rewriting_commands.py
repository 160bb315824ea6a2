"""`--rewrite` of `generate` and `batch`: both texts in the picture, notes, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnigen2_rt.runtime.images.png import read_parameters
from tests.commands.command import Command
from tests.evaluation.endpoint_double import Asked, Reply, endpoint_double, fails, says

ENGINE = ("--backend", "ort-cpu", "--precision", "fp32", "--threads", 1)
SMALL = ("--steps", 1, *ENGINE)
PROMPT = "a red circle on a blue background"


def paraphrase(asked: Asked, number: int) -> Reply:
    """A writer that keeps the prompt and adds to it."""
    return says(f"A picture of {asked.text.rpartition(': ')[2]}, with even light and sharp edges.")


def test_generate_with_a_rewriter_draws_the_rewrite_and_keeps_both_texts(command: Command, tmp_path: Path) -> None:
    with endpoint_double(paraphrase) as double:
        words = ("generate", PROMPT, "--rewrite", "--rewriter", double.url, "--rewriter-model", "w", "--out", tmp_path / "x.png")
        finished = command(*words, *SMALL)
    assert finished.code == 0 and "note: the prompt was rewritten: A picture of a red circle" in finished.err
    parameters = read_parameters(tmp_path / "x.png")
    long = f"A picture of {PROMPT}, with even light and sharp edges."
    assert parameters["prompt"] == long
    assert parameters["rewrite"] == {"prompt": PROMPT, "text": long, "refused": None, "writer": "w"}


def test_generate_whose_rewrite_is_refused_draws_the_prompt_and_says_why(command: Command, tmp_path: Path) -> None:
    with endpoint_double(lambda asked, number: says("A picture of a circle in lovely and even light, from far away.")) as double:
        words = ("--rewrite", "--rewriter", double.url, "--rewriter-model", "w", *SMALL)
        finished = command("generate", PROMPT, *words, "--out", tmp_path / "x.png")
    assert command("generate", PROMPT, "--out", tmp_path / "y.png", *SMALL).code == 0
    assert "the prompt stays as it is: the rewrite was refused, because it lost 'red', 'blue'" in finished.err
    parameters = read_parameters(tmp_path / "x.png")
    assert parameters["prompt"] == PROMPT and "it lost 'red', 'blue'" in parameters["rewrite"]["refused"]


def test_generate_with_nano_as_its_own_rewriter_draws(command: Command, tmp_path: Path) -> None:
    finished = command("generate", PROMPT, "--rewrite", "--out", tmp_path / "x.png", *SMALL)
    assert finished.code == 0 and "note: the prompt stays as it is" in finished.err
    assert read_parameters(tmp_path / "x.png")["rewrite"]["writer"] == "bundle"


def test_generate_without_rewrite_has_no_such_parameter(command: Command, tmp_path: Path) -> None:
    assert command("generate", PROMPT, "--out", tmp_path / "x.png", *SMALL).code == 0
    assert "rewrite" not in read_parameters(tmp_path / "x.png")


def test_generate_takes_a_template(command: Command, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("MAKE IT LONG: {prompt}")
    with endpoint_double(paraphrase) as double:
        words = ("--rewrite", "--rewriter", double.url, "--rewriter-model", "w", "--rewrite-template", tmp_path / "t.txt", *SMALL)
        assert command("generate", PROMPT, *words, "--out", tmp_path / "x.png").code == 0
        assert [asked.text for asked in double.asked] == [f"MAKE IT LONG: {PROMPT}"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rewriter", "http://127.0.0.1:1/v1"), "belong to --rewrite"),
        (("--rewrite-template", "t.txt"), "belong to --rewrite"),
        (("--rewrite", "--rewriter", "http://127.0.0.1:1/v1"), "--rewriter URL and --rewriter-model NAME belong together"),
        (("--rewrite", "--rewrite-template", "nowhere.txt"), "the template 'nowhere.txt' can't be read"),
    ],
)
def test_rewriting_options_that_do_not_fit_are_refused(
    command: Command, tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    assert said in command.fails("generate", PROMPT, *words, "--out", tmp_path / "x.png", *SMALL)
    assert not list(tmp_path.iterdir())


def rows_in(tmp_path: Path) -> Path:
    rows = tmp_path / "rows.jsonl"
    lines = [{"id": "a", "prompt": PROMPT}, {"id": "b", "prompt": PROMPT, "seed": 1}, {"id": "c", "prompt": "x"}]
    rows.write_text("\n".join(map(json.dumps, lines)))
    return rows


def manifest_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return {line["id"]: line for line in lines}


def test_batch_rewrites_each_prompt_once_and_draws_again_only_with_another_rewriter(command: Command, tmp_path: Path) -> None:
    rows, out = rows_in(tmp_path), tmp_path / "out"
    with endpoint_double(paraphrase) as double:
        words = ("batch", rows, out, "--default", "steps=1", *ENGINE)
        rewriter = ("--rewrite", "--rewriter", double.url, "--rewriter-model", "w")
        assert "3 drawn" in command(*words, *rewriter).out
        assert len(double.asked) == 2  # two rows share a prompt
        assert "0 drawn, 3 were there" in command(*words, *rewriter).out
        assert len(double.asked) == 2
        assert "3 drawn" in command(*words, *rewriter[:-1], "another").out
    assert "3 drawn" in command(*words).out
    assert "rewrite" not in manifest_of(out)["a"]["parameters"]


def test_batch_keeps_both_texts_in_the_manifest_and_notes_refusals(command: Command, tmp_path: Path) -> None:
    with endpoint_double(paraphrase) as double:
        rewriter = ("--rewrite", "--rewriter", double.url, "--rewriter-model", "w")
        assert command("batch", rows_in(tmp_path), tmp_path / "out", "--default", "steps=1", *rewriter, *ENGINE).code == 0
    parameters = manifest_of(tmp_path / "out")["b"]["parameters"]
    assert parameters["rewrite"]["prompt"] == PROMPT and parameters["prompt"].startswith("A picture of a red circle")
    assert read_parameters(tmp_path / "out" / "b.png")["rewrite"] == parameters["rewrite"]
    finished = command("batch", rows_in(tmp_path), tmp_path / "nano", "--default", "steps=1", "--rewrite", *ENGINE)
    assert finished.code == 0 and finished.err.count("the rewrite was refused") == 2  # "x" becomes a word


def test_batch_that_goes_on_draws_from_the_rewrite_that_earlier_rows_got(command: Command, tmp_path: Path) -> None:
    def another(asked: Asked, number: int) -> Reply:
        return says(f"Picture number {len(double.asked)} of {asked.text.rpartition(': ')[2]}, with even light.")

    rows, out = rows_in(tmp_path), tmp_path / "out"
    with endpoint_double(another) as double:
        rewriter = ("--rewrite", "--rewriter", double.url, "--rewriter-model", "w")
        words = ("batch", rows, out, "--default", "steps=1", *ENGINE, *rewriter)
        command(*words)
        before = manifest_of(out)["a"]["parameters"]["prompt"]
        (out / "b.png").unlink()
        assert "1 drawn, 2 were there" in command(*words).out
    assert manifest_of(out)["b"]["parameters"]["prompt"] == before


def test_batch_ends_after_five_rows_without_an_answer_of_the_rewriter(command: Command, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"id": f"r{number}", "prompt": f"a red circle, {number}"}) for number in range(9)))
    refusing = fails(500, Retry_After="0")
    with endpoint_double(lambda asked, number: refusing) as double:
        rewriter = ("--rewrite", "--rewriter", double.url, "--rewriter-model", "w")
        error = command.fails("batch", rows, tmp_path / "out", "--default", "steps=1", *rewriter, *ENGINE)
        assert "5 prompts in a row could not be rewritten" in error and len({asked.text for asked in double.asked}) == 5


def test_batch_ends_where_the_rewriter_can_never_answer(command: Command, tmp_path: Path) -> None:
    with endpoint_double(lambda asked, number: fails(401)) as double:
        rewriter = ("--rewrite", "--rewriter", double.url, "--rewriter-model", "w")
        error = command.fails("batch", rows_in(tmp_path), tmp_path / "out", "--default", "steps=1", *rewriter, *ENGINE)
        assert "the key is missing or wrong" in error and len(double.asked) == 1


def test_eval_draws_rewritten_instructions_and_judges_by_the_given_ones(command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    (tmp_path / "edits.json").write_text(json.dumps({"7": {"id": "red.png", "prompt": "make it blue", "edit_type": "adjust"}}))

    def reply(asked: Asked, number: int) -> Reply:
        if asked.pictures:
            return says("Compliance: 5\nQuality: 4\nFidelity: 4")
        return says(f"make it blue, all of it, and keep its size; {len(double.asked)} questions were asked")

    with endpoint_double(reply) as double:
        words = ("eval", "imgedit", tmp_path / "edits.json", "--bundle", "nano", "--out", tmp_path / "out", "--allow-incomplete")
        judge = ("--judge", double.url, "--text-guidance", 1, "--image-guidance", 1, *SMALL)
        for _ in range(2):
            finished = command(*words, *judge, "--rewrite", "--rewriter", double.url, "--rewriter-model", "w")
            assert finished.code == 0, finished.err
        questions = [asked.text for asked in double.asked]
    assert len(questions) == 2  # the second run asks for nothing
    assert "make it blue, all of it" not in questions[1] and "make it blue" in questions[1]
    (picture,) = (tmp_path / "out" / "nano" / "fullset").rglob("*.png")
    assert read_parameters(picture)["prompt"] == "make it blue, all of it, and keep its size; 1 questions were asked"
