"""PNG files with their parameters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.images.png import encode_png, read_parameters, save_png
from omnigen2_rt.runtime.images.png_chunks import is_whole

PARAMETERS = {"prompt": "a café 水彩 😀\n“quoted”", "steps": 50, "cfg_range": [0.0, 0.6], "cache": None}
PICTURE = Image.new("RGB", (4, 3), (1, 2, 3))


def test_saved_png_gives_back_picture_and_parameters(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    save_png(PICTURE, path, PARAMETERS)
    assert read_parameters(path) == PARAMETERS
    with Image.open(path) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.getpixel((0, 0)) == (1, 2, 3)
        assert image.text["parameters"].startswith("prompt: a café 水彩 😀")
        assert "steps: 50" in image.text["parameters"].splitlines()
    assert list(tmp_path.iterdir()) == [path]


def test_saved_png_with_a_long_prompt_can_be_read(tmp_path: Path) -> None:
    save_png(PICTURE, tmp_path / "long.png", {"prompt": "word " * 100_000})
    assert len(read_parameters(tmp_path / "long.png")["prompt"]) == 500_000


def test_save_png_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def broken(self: Image.Image, file: Any, **options: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(RequestError, match=f"^{re.escape(f'cannot write {str(path)!r}: No space left on device')}$"):
        save_png(PICTURE, path, PARAMETERS)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_save_png_where_no_file_can_be_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, reason in [
        ("none/picture.png", "No such file or directory"),
        ("file/picture.png", "Not a directory"),
        ("nul\0/picture.png", "embedded null byte"),
    ]:
        message = f"cannot write {str(tmp_path / name)!r}: {reason}"
        with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
            save_png(PICTURE, tmp_path / name, PARAMETERS)


def test_save_png_onto_a_folder_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    with pytest.raises(RequestError, match="Is a directory"):
        save_png(PICTURE, folder, PARAMETERS)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_save_png_of_parameters_that_json_cannot_hold_says_so(tmp_path: Path, value: object) -> None:
    with pytest.raises(RequestError, match="^parameters cannot be written as JSON: "):
        save_png(PICTURE, tmp_path / "a.png", {"x": value})
    assert list(tmp_path.iterdir()) == []


def with_chunk(path: Path, text: str | None) -> Path:
    chunks = PngImagePlugin.PngInfo()
    if text is not None:
        chunks.add_text("omnigen2", text)
    PICTURE.save(path, pnginfo=chunks)
    return path


def test_read_parameters_of_a_bad_file_says_what_is_wrong(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "photo.jpg")
    whole = with_chunk(tmp_path / "whole.png", "{}").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:40])
    cases = [
        (tmp_path / "none.png", "does not exist"),
        (tmp_path / "photo.jpg", "is not a PNG file"),
        (with_chunk(tmp_path / "plain.png", None), "carries no parameters of a drawing; was it made or re-saved by "),
        (with_chunk(tmp_path / "damaged.png", "{"), "carries damaged parameters: the text is not JSON: Expecting property name"),
        (with_chunk(tmp_path / "list.png", "[]"), "carries damaged parameters: the text is not a JSON object"),
        (tmp_path / "cut.png", ""),
        (tmp_path, "cannot be read: Is a directory"),
    ]
    for path, message in cases:
        with pytest.raises(RequestError, match=f"^{re.escape(f'{str(path)!r} {message}')}"):
            read_parameters(path)


def test_is_whole_tells_every_lost_or_changed_byte() -> None:
    content = encode_png(Image.new("RGB", (3, 2), "tan"), {"seed": 7})
    assert is_whole(content) and is_whole(content + b"behind the end")
    assert not any(is_whole(content[:end]) for end in range(len(content)))
    changed = (content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content)))
    assert not any(map(is_whole, changed))
