"""Chat and reflection in a terminal: streamed answers, pictures saved and named, the files of a reflection.

Talks to people through a `say` function and reads through `ask_line`, so that tests need no terminal. Knows no model.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from PIL import Image

from ..runtime.chat.conversation import Conversation
from ..runtime.chat.exchange import ChatResult
from ..runtime.chat.reflection import Reflection, Round
from ..runtime.chat.settings import ChatSettings
from ..runtime.errors import OmniGen2Error, RequestError
from ..runtime.images.captioned_row import captioned_row
from ..runtime.images.loading import load_image
from ..runtime.request import OnStep, Request
from .output import Picture, save_all, save_numbered
from .terminal import ProgressLine

Say = Callable[[str], object]
Notes = Callable[[str, Sequence[Image.Image]], None]
HELP = "/image FILE shows a picture with the next question, /new starts anew, /quit (or Ctrl-D) ends"
BUNDLE_JUDGE = "bundle"
"""The name of the bundle's own language model as a judge."""
LONGEST_LINE = 2**20
"""The most characters of a line that is read from a pipe: /dev/zero holds no line end."""


def check_folder(folder: Path) -> None:
    """Raises RequestError, before anything is generated, for what is no folder or can't be written to."""
    if not folder.is_dir():
        raise RequestError(f"--out {str(folder)!r} is not a folder: make it first")
    try:
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RequestError(f"--out {str(folder)!r} can't be written to: {error.strerror or error}") from error


def save_pictures(answer: ChatResult, folder: Path) -> list[Path]:
    """The answer's pictures under names that are free in `folder`: picture-1.png, picture-2.png, …"""
    return save_numbered(answer.images, folder)


def answer_as_json(answer: ChatResult, files: list[Path]) -> dict[str, Any]:
    """An answer as `omnigen2 chat --json` prints it."""
    return {
        "text": answer.text,
        "token_ids": list(answer.token_ids),
        "images": [str(file) for file in files],
        "finish_reason": answer.finish_reason,
    }


def cut_note(answer: ChatResult) -> str:
    """A line for people where an answer ended before the model's own end; empty for others."""
    if answer.finish_reason == "length":
        return f"the answer was cut at {len(answer.token_ids)} tokens: --max-new-tokens allows more\n"
    if answer.finish_reason == "context":
        return "the answer was cut, because the conversation fills the model's context: start a new one\n"
    return ""


def is_at_terminal() -> bool:
    """Whether a person types the questions: both standard streams are a terminal."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def line_reader() -> Callable[[], str]:
    """A function that reads a line and raises EOFError at the end.

    At a terminal it prompts and has history under the arrow keys where Python has readline. Elsewhere it raises RequestError for
    what is no text.
    """
    if sys.stdin is None:
        raise RequestError("there is no standard input to read questions from: give the question as an argument")
    if not is_at_terminal():
        return _read_line
    with suppress(ImportError):
        import readline  # noqa: F401
    return lambda: input("> ")


def _read_line() -> str:
    try:
        line = sys.stdin.readline(LONGEST_LINE + 1)
    except UnicodeDecodeError as error:
        raise RequestError(f"the standard input is not {error.encoding} text") from error
    except OSError as error:
        raise RequestError(f"the standard input can't be read: {error.strerror or error}") from error
    if not line:
        raise EOFError
    if len(line) > LONGEST_LINE:
        raise RequestError(f"the standard input holds a line of more than {LONGEST_LINE} characters")
    return line


def no_notes(question: str, pictures: Sequence[Image.Image]) -> None:
    """Notes nothing."""


def converse(
    start_chat: Callable[[], Conversation],
    settings: ChatSettings,
    folder: Path,
    ask_line: Callable[[], str],
    say: Say,
    images: Sequence[Path] = (),
    *,
    at_terminal: bool = True,
    notes: Notes = no_notes,
) -> None:
    """Questions and answers until /quit or the end of input.

    images: shown with the first question. at_terminal: errors and Ctrl-C end an answer, not the conversation; elsewhere they are
    raised. notes: is given each question and the pictures of its answer.
    """
    chat, shown = start_chat(), list(images)
    if at_terminal:
        say(f"{HELP}\n")
    while True:
        try:
            line = ask_line().strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            say("\n")
            continue
        command, _, rest = line.partition(" ")
        try:
            if command == "/quit":
                return
            if command == "/new":
                chat, shown = start_chat(), []
            elif command == "/image":
                shown = [*shown, picture_file(rest.strip())]
            elif command.startswith("/"):
                say(f"{HELP}\n")
            elif line:
                pictures, shown = shown, []
                notes(line, _answer(chat, line, pictures, settings, folder, say).images)
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            say("\nstopped\n")
        except OmniGen2Error as error:
            if not at_terminal:
                raise
            say(f"error: {error}\n")


def picture_file(words: str) -> Path:
    """The picture that a line names as it stands, or as a shell reads it: with quotes or backslashes. Raises RequestError."""
    if not words:
        raise RequestError("/image needs the name of a picture: /image FILE")
    names = [words]
    with suppress(ValueError):  # an open quote
        names += ["".join(part) for part in [shlex.split(words)] if len(part) == 1]
    found = next((path for path in map(os.path.expanduser, names) if os.path.isfile(path)), None)
    if found is None:
        raise RequestError(f"there is no file {words!r}")
    load_image(found)
    return Path(found)


def step_progress(bar: ProgressLine, request: Request | None) -> OnStep:
    """A callback that shows a drawing's steps on a progress line."""
    total = (request or Request(prompt="")).steps
    return lambda step: bar.show(step.index + 1, total, "drawing")


def _answer(
    chat: Conversation, line: str, shown: list[Path], settings: ChatSettings, folder: Path, say: Say
) -> ChatResult:
    bar = ProgressLine()
    try:
        answer = chat.ask(line, shown, settings, on_token=say, on_step=step_progress(bar, settings.request))
    finally:
        bar.end()
    if answer.text:
        say("\n")
    for file in save_pictures(answer, folder):
        say(f"{file}\n")
    sys.stderr.write(cut_note(answer))
    return answer


def save_rounds(reflection: Reflection, out: Path, judge: str = BUNDLE_JUDGE) -> list[Path]:
    """Each round's picture (out-0.png, …), the best (out.png), and a sheet of all rounds side by side (out-sheet.png).

    judge: the name of the model that graded and criticised.
    """
    pictures = [done.result.images[0] for done in reflection.rounds if done.result.images]
    if not pictures:
        return []
    sheet, *names = files_beside(out, len(pictures))
    row = captioned_row(pictures, [_caption(number, done) for number, done in enumerate(reflection.rounds)])
    loras = [dataclasses.asdict(lora) for lora in reflection.rounds[0].result.loras]
    parameters = {"rounds": rounds_as_json(reflection), "judge": judge, "loras": loras}
    best = Picture(image=pictures[reflection.best], parameters=parameters)
    rounds = zip(map(_picture, pictures), names, strict=True)
    save_all([*rounds, (best, out), (_picture(row), sheet)])
    return [out, *names, sheet]


def files_beside(out: Path, rounds: int) -> list[Path]:
    """The files of a reflection beside its best picture: the sheet, and the picture of each round."""
    return [out.with_name(f"{out.stem}-{name}{out.suffix}") for name in ("sheet", *range(rounds))]


def _caption(number: int, done: Round) -> str:
    grade = "no grade" if done.grade is None else f"grade {done.grade:g}"
    return "\n".join([f"{number}: {grade}", *filter(None, [done.critique]), *([f"-> {done.edit}"] if done.edit else [])])


def rounds_as_json(reflection: Reflection) -> list[dict[str, Any]]:
    """The model's judgement of each round."""
    return [
        {"grade": done.grade, "critique": done.critique, "edit": done.edit, "best": number == reflection.best}
        for number, done in enumerate(reflection.rounds)
    ]


def _picture(image: Image.Image) -> Picture:
    return Picture(image=image)
