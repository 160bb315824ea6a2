"""OmniGen2 without PyTorch: draw, edit and chat from an exported bundle.

    import omnigen2_rt as og

    pipe = og.load("path/to/bundle")
    result = pipe.generate(og.Request(prompt="a red fox in the snow"))
    result.images[0].save("fox.png")

This file holds the public names and nothing else. A name's module is loaded where the name is first taken, so that the
`omnigen2` command begins at once and hears Ctrl-C. None of them loads an engine or PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .runtime.chat.answer_stream import AnswerStream
    from .runtime.chat.conversation import Conversation
    from .runtime.chat.exchange import ChatResult
    from .runtime.chat.reflection import Reflection
    from .runtime.chat.settings import ChatSettings
    from .runtime.chat.turns import Turn
    from .runtime.drawing import Drawing
    from .runtime.errors import BackendError, BundleError, ExportError, OmniGen2Error, RequestError
    from .runtime.pipeline import Pipeline, load
    from .runtime.request import Request, Result, Step
    from .runtime.step_caches import TaylorSeer, TeaCache

__all__ = [
    "AnswerStream",
    "BackendError",
    "BundleError",
    "ChatResult",
    "ChatSettings",
    "Conversation",
    "Drawing",
    "ExportError",
    "OmniGen2Error",
    "Pipeline",
    "Reflection",
    "Request",
    "RequestError",
    "Result",
    "Step",
    "TaylorSeer",
    "TeaCache",
    "Turn",
    "__version__",
    "load",
]

_MODULES = {
    "runtime.chat.answer_stream": ("AnswerStream",),
    "runtime.chat.conversation": ("Conversation",),
    "runtime.chat.exchange": ("ChatResult",),
    "runtime.chat.reflection": ("Reflection",),
    "runtime.chat.settings": ("ChatSettings",),
    "runtime.chat.turns": ("Turn",),
    "runtime.drawing": ("Drawing",),
    "runtime.errors": ("BackendError", "BundleError", "ExportError", "OmniGen2Error", "RequestError"),
    "runtime.pipeline": ("Pipeline", "load"),
    "runtime.request": ("Request", "Result", "Step"),
    "runtime.step_caches": ("TaylorSeer", "TeaCache"),
}
"""The module of each public name: the imports above once more, for where the program runs."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """A public name, loaded where it is first taken."""
        from importlib import import_module

        for module, names in _MODULES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(f".{module}", __name__), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
