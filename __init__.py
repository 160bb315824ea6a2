"""OmniGen2 without PyTorch: draw, edit and chat from an exported bundle.

    import omnigen2_rt as og

    pipe = og.load("path/to/bundle")
    result = pipe.generate(og.Request(prompt="a red fox in the snow"))
    result.images[0].save("fox.png")

This file holds the public names and nothing else. Importing it loads neither an engine nor PyTorch.
"""

__version__ = "0.1.0"

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
