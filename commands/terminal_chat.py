"""Chat and reflection in a terminal: streamed answers, pictures saved and named, the files of a reflection.

Talks to people through a `say` function and reads through `ask_line`, so that tests need no terminal. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ..runtime.chat.conversation import Conversation
from ..runtime.chat.exchange import ChatResult
from ..runtime.chat.reflection import Reflection, Round
from ..runtime.errors import OmniGen2Error
from ..runtime.images.captioned_row import captioned_row
from ..runtime.request import OnStep, Request
from .output import Picture, save_all, save_numbered
from .terminal import ProgressLine

Say = Callable[[str], object]
HELP = "/image FILE shows a picture with the next question, /new starts anew, /quit (or Ctrl-D) ends"


def save_pictures(answer: ChatResult, folder: Path) -> list[Path]:
    """The answer's pictures under names that are free in `folder`: picture-1.png, picture-2.png, …"""
    return save_numbered(answer.images, folder)


def answer_as_json(answer: ChatResult, files: list[Path]) -> dict[str, Any]:
    """An answer as `omnigen2 chat --json` prints it."""
    return {"text": answer.text, "token_ids": list(answer.token_ids), "images": [str(file) for file in files]}


def line_reader() -> Callable[[], str]:
    """A function that reads a line, with history under the arrow keys where Python has readline."""
    with suppress(ImportError):
        import readline  # noqa: F401
    return lambda: input("> ")


def converse(
    start_chat: Callable[[], Conversation],
    request: Request,
    folder: Path,
    ask_line: Callable[[], str],
    say: Say,
    settings: dict[str, Any],
    images: Sequence[Path] = (),
) -> None:
    """Questions and answers until /quit or the end of input. Errors and Ctrl-C end an answer, not the conversation.

    images: shown with the first question.
    """
    chat, shown = start_chat(), list(images)
    say(f"{HELP}\n")
    while True:
        try:
            line = ask_line().strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            say("\n")
            continue
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if command == "/new":
            chat, shown = start_chat(), []
        elif command == "/image":
            shown = _show(shown, Path(rest.strip()).expanduser(), say)
        elif command.startswith("/"):
            say(f"{HELP}\n")
        elif line:
            _answer(chat, line, shown, request, folder, say, settings)
            shown = []


def step_progress(bar: ProgressLine, request: Request) -> OnStep:
    """A callback that shows a drawing's steps on a progress line."""
    return lambda step: bar.show(step.index + 1, request.steps, "drawing")


def _show(shown: list[Path], file: Path, say: Say) -> list[Path]:
    if not file.is_file():
        say(f"there is no file {str(file)!r}\n")
        return shown
    return [*shown, file]


def _answer(
    chat: Conversation, line: str, shown: list[Path], request: Request, folder: Path, say: Say, settings: dict[str, Any]
) -> None:
    bar = ProgressLine()
    try:
        try:
            answer = chat.ask(line, shown, request=request, on_token=say, on_step=step_progress(bar, request), **settings)
        finally:
            bar.end()
        if answer.text:
            say("\n")
        for file in save_pictures(answer, folder):
            say(f"{file}\n")
    except KeyboardInterrupt:
        say("\nstopped\n")
    except OmniGen2Error as error:
        say(f"error: {error}\n")


def save_rounds(reflection: Reflection, out: Path) -> list[Path]:
    """Each round's picture (out-0.png, …), the best (out.png), and a sheet of all rounds side by side (out-sheet.png)."""
    pictures = [done.result.images[0] for done in reflection.rounds if done.result.images]
    if not pictures:
        return []
    names = [out.with_name(f"{out.stem}-{k}{out.suffix}") for k in range(len(pictures))]
    sheet = out.with_name(f"{out.stem}-sheet{out.suffix}")
    row = captioned_row(pictures, [_caption(number, done) for number, done in enumerate(reflection.rounds)])
    best = Picture(image=pictures[reflection.best], parameters={"rounds": rounds_as_json(reflection)})
    rounds = zip(map(_picture, pictures), names, strict=True)
    save_all([*rounds, (best, out), (_picture(row), sheet)])
    return [out, *names, sheet]


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
