"""`omnigen2 eval gedit`, `imgedit` and `geneval`, and what all of these commands refuse."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from omnigen2_rt.commands.endpoint_options import wait_notes
from omnigen2_rt.runtime.images.png import read_parameters
from tests.commands.command import Command
from tests.evaluation.endpoint_double import endpoint_double, fails, says

QUICK = ("--backend", "ort-cpu", "--precision", "fp32", "--threads", 1, "--steps", 1, "--text-guidance", 1, "--image-guidance", 1)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def gedit(tmp_path: Path) -> Path:
    """Two samples in English and one in Chinese."""
    Image.new("RGB", (64, 32), "red").save(tmp_path / "red.png")
    facts = {"task_type": "color_alter", "input_image": "red.png", "Intersection_exist": True}
    rows = [
        {"key": "1", "instruction": "make it blue", "instruction_language": "en", **facts},
        {"key": "2", "instruction": "make it green", "instruction_language": "en", **facts, "Intersection_exist": False},
        {"key": "1", "instruction": "变成蓝色", "instruction_language": "cn", **facts},
    ]
    path = tmp_path / "gedit.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_gedit_scores_each_language_in_a_folder_of_its_own_and_the_shared_part(
    command: Command, gedit: Path, tmp_path: Path
) -> None:
    def reply(asked: Any, number: int) -> Any:
        grades = ("naturalness", "artifacts") if "artifacts" in asked.text else ("success", "preservation")
        return says(json.dumps({"reasoning": "", **dict.fromkeys(grades, 4 if "green" in asked.text else 9)}))

    words = ("eval", "gedit", gedit, "--bundle", "nano", "--out", tmp_path / "out", *QUICK, "--allow-incomplete")
    with endpoint_double(reply) as double:
        english = command(*words, "--judge", double.url)
        chinese = command(*words, "--judge", double.url, "--language", "cn")
    assert (english.code, chinese.code) == (0, 0)
    folders = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("summary.json")}
    assert folders == {"nano/gpt-4.1/summary.json", "nano/gpt-4.1-cn/summary.json"}
    drawn = tmp_path / "out" / "nano" / "fullset" / "color_alter"
    assert {path.relative_to(drawn).as_posix() for path in drawn.rglob("*.png")} == {"en/1.png", "en/2.png", "cn/1.png"}
    with Image.open(drawn / "en" / "1.png") as picture:
        assert picture.size == (64, 32)
    assert len(read_parameters(drawn / "en" / "1.png")["timesteps"]) == 1
    summary = json.loads((tmp_path / "out" / "nano" / "gpt-4.1" / "summary.json").read_text())
    assert summary["averages"]["O"]["average"]["value"] == pytest.approx((9 + 6) / 2)
    assert summary["shared_part"]["O"]["average"]["value"] == 9
    assert "samples that all published models were scored on" in english.out


def test_imgedit_takes_its_published_prompts(command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    (tmp_path / "edits.json").write_text(json.dumps({"7": {"id": "red.png", "prompt": "make it blue", "edit_type": "adjust"}}))
    (tmp_path / "prompts.json").write_text(json.dumps({"adjust": "grade the edit <edit_prompt> in three lines"}))
    words = ("eval", "imgedit", tmp_path / "edits.json", "--bundle", "nano", "--out", tmp_path / "out", *QUICK)
    with endpoint_double(lambda asked, number: says("Brief: fine\nCompliance: 5\nQuality: 4\nFidelity: 4")) as double:
        asking = ("--judge", double.url, "--rubric", tmp_path / "prompts.json")
        finished = command(*words, *asking, "--allow-incomplete", "--json", tmp_path / "scores.json")
    assert finished.code == 0 and double.asked[0].text == "grade the edit make it blue in three lines"
    assert "response_format" not in double.asked[0].body and double.asked[0].body["model"] == "gpt-4o"
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["nano"]["overall"]["subtasks"] == {"adjust": pytest.approx(13 / 3, abs=1e-5)}


def write_detections(path: Path, rights: list[bool | None]) -> Path:
    cup = {"class": "cup", "score": 0.99, "box": [0, 0, 9, 9]}
    lines = [
        {
            "tag": "counting",
            "prompt": f"a photo of {number} cups",
            "include": [{"class": "cup", "count": 1}],
            "detections": None if right is None else [cup] if right else [],
        }
        for number, right in enumerate(rights)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_geneval_compares_two_models_on_the_same_prompts(command: Command, tmp_path: Path) -> None:
    ours = write_detections(tmp_path / "ours.jsonl", [True, True, False, True])
    theirs = write_detections(tmp_path / "theirs.jsonl", [True, False, False, False])
    finished = command("eval", "geneval", ours, "--against", theirs, "--allow-incomplete", "--json", tmp_path / "scores.json")
    assert finished.code == 0 and "0.75" in finished.out and "+0.50" in finished.out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["accuracy"]["subtasks"] == {"counting": 0.75}
    assert scores["difference"]["average"]["value"] == 0.5 and scores["is_whole"] is False


def test_geneval_gives_no_average_of_an_incomplete_set(command: Command, tmp_path: Path) -> None:
    few = command("eval", "geneval", write_detections(tmp_path / "few.jsonl", [True]))
    assert few.code == 0 and "not given" in few.out and "not the whole published set" in few.err
    error = command.fails("eval", "geneval", write_detections(tmp_path / "broken.jsonl", [True, None]))
    assert "1 of 2 pictures have no verdict, because detections or colours are missing" in error


def test_geneval_says_the_gaps_of_an_average_that_is_allowed(command: Command, tmp_path: Path) -> None:
    broken = write_detections(tmp_path / "broken.jsonl", [True, None])
    lines = command("eval", "geneval", broken, "--allow-incomplete").out.splitlines()
    assert lines[:3] == [
        "This is not the whole published set: its average is not a score of the benchmark.",
        "Pictures without a verdict: 1 of 2.",
        "Tags without any verdict, which no average holds: single_object, two_object, colors, position, color_attr.",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--bundle BUNDLE is missing"),
        (("--no-draw",), "--no-draw needs --name NAME"),
        (("--bundle", "nowhere"), "'nowhere' is not a bundle"),
        (("--bundle", "nano", "--against", "nano"), "both models are called 'nano'"),
        (("--bundle", "nano", "--against-name", "x"), "--against-name belongs to --against"),
        (("--bundle", "nano", "--against", "x", "--against-run", "x"), "--against BUNDLE and --against-run NAME exclude"),
        (("--bundle", "nano", "--against-run", "x"), "there is no earlier run of that name in"),
        (("--no-draw", "--name", "x", "--bundle", "nano"), "and no bundle; use --against-run"),
        (("--bundle", "nano", "--name", "answers"), "results can't be called 'answers'"),
        (("--bundle", "nano", "--subtasks", "poetry"), "there is no subtask 'poetry'; there are color_alter"),
        (("--bundle", "nano", "--samples", 0), "samples=0 is out of range"),
        (("--bundle", "nano", "--language", "fr"), "language='fr' is unknown to gedit; choose en, cn"),
        (("--bundle", "nano", "--size", 64), "--size has no effect on gedit"),
        (("--bundle", "nano", "--steps", 0), "steps=0"),
        (("--bundle", "nano", "--cache", "magic"), "--cache 'magic' is unknown"),
        (("--bundle", "nano", "--judge", "host"), "is not an address such as"),
        (("--bundle", "nano", "--judge", "http://host/v1", "--judgings", 0), "judgings=0 is below the fewest, 1"),
        (("--bundle", "nano", "--judge", "http://host/v1", "--parallel", 0), "threads=0 is below the fewest, 1"),
        (("--bundle", "nano", "--judge", "http://host/v1", "--rubric", "none.toml"), "the rubric 'none.toml' can't be read"),
        (("--bundle", "nano", "--json", "nowhere/x.json"), "can't write 'nowhere/x.json'"),
        (("--bundle", "nano", "--json", "x.json"), "--json needs --judge URL"),
    ],
)
def test_wrong_options_are_refused(words: tuple[object, ...], said: str, command: Command, gedit: Path, tmp_path: Path) -> None:
    assert said in command.fails("eval", "gedit", gedit, "--out", tmp_path / "out", *words)
    assert not [*tmp_path.rglob("*/fullset/*")]


def test_rubric_that_lacks_a_section_is_refused_before_anything_is_drawn(command: Command, gedit: Path, tmp_path: Path) -> None:
    (tmp_path / "half.toml").write_text('[semantic_consistency]\ntext = "grade {instruction}"\n')
    words = ("eval", "gedit", gedit, "--bundle", "nano", "--out", tmp_path / "out", *QUICK)
    error = command.fails(*words, "--judge", "http://host/v1", "--rubric", tmp_path / "half.toml")
    assert "the rubric has no section 'perceptual_quality'" in error and not [*tmp_path.rglob("fullset")]


def test_endpoint_that_answers_nobody_is_named_by_option_and_host(command: Command, gedit: Path, tmp_path: Path) -> None:
    words = ("eval", "gedit", gedit, "--bundle", "nano", "--out", tmp_path / "out", *QUICK)
    with endpoint_double(lambda asked, number: fails(401)) as double:
        error = command.fails(*words, "--judge", double.url, "--parallel", 1)
        assert f"--judge {double.url[7:-3]}: the endpoint answered 401" in error


def test_wait_for_an_endpoint_is_noted_once_whatever_the_number_of_threads(capsys: pytest.CaptureFixture[str]) -> None:
    on_wait = wait_notes("--judge", "http://host:8001/v1")
    threads = [Thread(target=on_wait, args=(f"busy; next try in {number % 2} s",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = sorted(capsys.readouterr().err.splitlines())
    assert lines == [f"note: --judge host:8001: busy; next try in {number} s" for number in range(2)]


def test_data_that_cannot_be_read_is_refused(command: Command, tmp_path: Path) -> None:
    error = command.fails("eval", "omnicontext", tmp_path / "none", "--bundle", "nano", "--out", tmp_path / "out")
    assert "must be a folder, or end in .jsonl" in error


def test_second_evaluation_in_the_same_folder_is_refused(command: Command, gedit: Path, tmp_path: Path) -> None:
    from omnigen2_rt.evaluation.results import locked_results

    with locked_results(tmp_path / "out"):
        error = command.fails("eval", "gedit", gedit, "--bundle", "nano", "--out", tmp_path / "out", *QUICK)
    assert "another evaluation is at work in" in error


def test_picture_of_an_earlier_run_is_not_scored_where_drawing_fails_now(command: Command, gedit: Path, tmp_path: Path) -> None:
    words = ("eval", "gedit", gedit, "--bundle", "nano", "--out", tmp_path / "out", *QUICK)
    assert command(*words).code == 0
    (tmp_path / "red.png").write_bytes(b"damaged since")
    with endpoint_double(lambda asked, number: says("unasked")) as double:
        finished = command(*words, "--judge", double.url, "--allow-incomplete")
    assert finished.code == 0 and "Samples without a score: 2 of 2." in finished.out and not double.asked
    folder = tmp_path / "out" / "nano" / "gpt-4.1"
    rows = [json.loads(line) for line in (folder / "combined_score.jsonl").read_text().splitlines()]
    assert all(row["overall_score"] is None and "red.png" in row["problems"][0] for row in rows)
    assert "<img" not in (folder / "report.html").read_text()


def test_sample_without_its_picture_is_said_when_only_drawing(command: Command, gedit: Path, tmp_path: Path) -> None:
    (tmp_path / "red.png").unlink()
    finished = command("eval", "gedit", gedit, "--bundle", "nano", "--out", tmp_path / "out", *QUICK)
    assert finished.code == 1 and "note: color_alter/en/1: the input picture 'red.png' is missing" in finished.err
    assert "nano: 0 of 2 pictures are there" in finished.out
