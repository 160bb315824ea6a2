"""The page: whole in one file, worst samples first, and nothing in it is taken as HTML or as an address."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from omnigen2_rt.evaluation.benchmarks import OMNICONTEXT
from omnigen2_rt.evaluation.grades import Grades
from omnigen2_rt.evaluation.judging import Judging
from omnigen2_rt.evaluation.pictures import picture_path
from omnigen2_rt.evaluation.report import Shown, report_page
from omnigen2_rt.evaluation.samples import Sample
from omnigen2_rt.evaluation.scores import SampleScore, averages, completeness_of, differences, score_samples

HOSTILE = '<script>alert("x")</script> $title &amp; https://example.com/x.png'


def scores_of(folder: Path, values: list[float | None], reason: str = "because") -> tuple[SampleScore, ...]:
    """Samples with these scores; None: the judge's answer can't be read. The first one has no picture."""
    samples, judgings = [], {}
    for number, value in enumerate(values):
        Image.new("RGB", (400, 200), (20 * number, 0, 0)).save(folder.parent / "input.png")
        task = "multi_object" if number % 2 else 'scene "object"'
        sample = Sample(key=f"key{number}", task=task, instruction=HOSTILE, inputs=(folder.parent / "input.png",))
        samples.append(sample)
        if number:
            output = picture_path(folder, sample)
            output.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (640, 640), (0, 20 * number, 0)).save(output)
            broken = Grades(problem="no JSON")
            grades = broken if value is None else Grades(scores={"score": value}, reason=reason)
            judgings[sample.name] = {name: (Judging(value=value, grades=grades),) for name in ("PF", "SC")}
    return score_samples(OMNICONTEXT, samples, judgings)


def shown(name: str, folder: Path, scores: tuple[SampleScore, ...]) -> Shown:
    return Shown(
        name=name,
        folder=folder,
        scores=scores,
        averages=averages(OMNICONTEXT, scores, has_total=True),
        completeness=completeness_of(OMNICONTEXT, scores),
    )


def page_of(folder: Path, scores: tuple[SampleScore, ...], other: tuple[SampleScore, ...] | None = None) -> str:
    model = shown("int4", folder, scores)
    if other is None:
        return report_page(OMNICONTEXT, model, "judged")
    return report_page(OMNICONTEXT, model, "judged", shown("fp32", folder, other), differences(OMNICONTEXT, scores, other, True))


def cards(page: str) -> list[str]:
    return re.findall(r"<article.*?</article>", page, re.DOTALL)


def test_page_needs_nothing_from_elsewhere_and_takes_no_text_as_html(tmp_path: Path) -> None:
    page = page_of(tmp_path / "int4", scores_of(tmp_path / "int4", [9, 4, 8], HOSTILE))
    assert page.count("<script>") == 1
    assert page.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; $title &amp;amp;") == 3 + 2 * 2
    assert not re.findall(r"(?:src|href|action)=(?!\"data:image/jpeg;base64,)", page)
    assert "http" not in page.replace("http-equiv", "").replace("https://example.com/x.png", "")


def test_page_allows_its_own_style_and_script_and_no_other(tmp_path: Path) -> None:
    page = page_of(tmp_path / "int4", scores_of(tmp_path / "int4", [9, 4]))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    for kind in ("style", "script"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;") and " style=" not in page


def test_page_shows_the_worst_first_and_what_is_missing_last(tmp_path: Path) -> None:
    found = cards(page_of(tmp_path / "int4", scores_of(tmp_path / "int4", [9, 4, 8, None, 1])))
    assert [re.findall(r"key\d", card)[0] for card in found] == ["key4", "key1", "key2", "key3", "key0"]
    assert ['data-missing="yes"' in card for card in found] == [False, False, False, True, True]
    assert "overall 1.00" in found[0] and "no JSON" in found[3] and "there is no picture" in found[4] and "no score" in found[4]
    assert all('data-task="scene &quot;object&quot;"' in card for card in found if "key1" not in card and "key3" not in card)


def test_filter_names_subtasks_as_the_samples_do(tmp_path: Path) -> None:
    page = page_of(tmp_path / "int4", scores_of(tmp_path / "int4", [9, 4, 8]))
    options = re.findall('<option value="([^"]+)">', page)
    assert len(options) == 2 and {*options} == {*re.findall('data-task="([^"]+)"', page)}


def test_page_shows_the_largest_loss_first_where_there_are_two_models(tmp_path: Path) -> None:
    ours, theirs = (scores_of(tmp_path / "int4", values) for values in ([9, 4, 8, 5], [9, 3, 10, 5]))
    found = cards(page_of(tmp_path / "int4", ours, theirs))
    assert [re.findall(r"key\d", card)[0] for card in found] == ["key2", "key3", "key1", "key0"]
    assert "-2.00" in found[0] and "±0" in found[1] and "+1.00" in found[2]
    assert found[0].count("<img") == 3 and "prompt following (fp32)" in found[0]


def test_page_embeds_small_pictures(tmp_path: Path) -> None:
    page = page_of(tmp_path / "int4", scores_of(tmp_path / "int4", [9, 4]))
    assert set(re.findall(r'width="(\d+)" height="(\d+)"', page)) == {("160", "80"), ("320", "320")}
    assert len(page) < 30_000


def test_page_says_what_the_sets_lack(tmp_path: Path) -> None:
    ours, theirs = (scores_of(tmp_path / "int4", values) for values in ([9, None, 8], [9, 1, 8]))
    whole = "This is not the whole published set: its average is not a score of the benchmark."
    ours_gap, theirs_gap = (f"Samples without a score: {count} of 3." for count in (2, 1))
    answers = "Answers of the judge that are missing or can't be read: 2."
    for page, lines in (
        (page_of(tmp_path / "int4", ours), [whole, ours_gap, answers]),
        (page_of(tmp_path / "int4", ours, theirs), [whole, f"int4: {ours_gap}", f"int4: {answers}", f"fp32: {theirs_gap}"]),
    ):
        assert [unescape(line) for line in re.findall('<p class="notice">(.*?)</p>', page)] == lines


@pytest.mark.parametrize("number", [3.0, 7.256])
def test_page_has_a_row_for_each_subtask_and_the_average(number: float, tmp_path: Path) -> None:
    page = page_of(tmp_path / "int4", scores_of(tmp_path / "int4", [9, number, 8, number]))
    rows = re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    assert [re.sub(r"<[^>]*>", " ", row).split()[:2] for row in rows[1:]] == [
        ["scene", "&quot;object&quot;"],
        ["multi_object", "2"],
        ["average", "of"],
    ]
    assert f"<td>{number:.2f}</td>" in rows[2]
