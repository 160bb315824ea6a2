"""The public API is a short list, written here once more so that no name joins or leaves it unnoticed."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest

import omnigen2_rt

PUBLIC = [
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

DOCUMENTED = [name for name in PUBLIC if name != "__version__"]


def test_public_names_are_exactly_the_listed_ones() -> None:
    assert sorted(omnigen2_rt.__all__) == PUBLIC


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_name_has_a_docstring_of_its_own(name: str) -> None:
    thing = getattr(omnigen2_rt, name)
    text = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert text and text.strip(), f"{name} has no docstring"
    is_generated = dataclasses.is_dataclass(thing) and text.startswith(f"{name}(")
    assert not is_generated, f"{name} has only the docstring that dataclass makes"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_methods_have_docstrings(name: str) -> None:
    thing = getattr(omnigen2_rt, name)
    methods = [value for value in vars(thing).values() if inspect.isfunction(value)] if inspect.isclass(thing) else []
    bare = [method.__name__ for method in methods if not method.__name__.startswith("_") and not method.__doc__]
    assert not bare, f"{name}: {bare} have no docstring"


def test_public_error_messages_share_one_root() -> None:
    errors = [getattr(omnigen2_rt, name) for name in PUBLIC if name.endswith("Error")]
    assert all(issubclass(error, omnigen2_rt.OmniGen2Error) for error in errors)


def test_public_names_all_have_a_module() -> None:
    """Loaded by name, they would be missing only where they are taken."""
    listed = [name for names in omnigen2_rt._MODULES.values() for name in names]
    assert sorted(listed) == DOCUMENTED and {*PUBLIC} <= {*dir(omnigen2_rt)}
    with pytest.raises(AttributeError, match="module 'omnigen2_rt' has no attribute 'nothing'"):
        getattr(omnigen2_rt, "nothing")  # noqa: B009


def test_package_import_loads_nothing_so_that_the_command_hears_ctrl_c_at_once() -> None:
    """Ctrl-C in the first half second ended the command with a trace of the imports."""
    program = "import sys, omnigen2_rt.__main__; print(*sys.modules)"
    loaded = {*subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()}
    assert "numpy" not in loaded
    assert {name for name in loaded if name.startswith("omnigen2_rt")} == {"omnigen2_rt", "omnigen2_rt.__main__"}


def test_public_names_load_no_engine_and_little_else() -> None:
    """Seconds depend on the machine; these are what would cost them."""
    program = "import sys; from omnigen2_rt import *; print(*sys.modules)"
    loaded = {*subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()}
    installed = {name for name in loaded if "." not in name and not name.startswith("_")} - sys.stdlib_module_names
    assert installed == {"PIL", "ml_dtypes", "numpy", "omnigen2_rt", "tokenizers"}
    assert not loaded & {"asyncio", "email", "http", "importlib.metadata", "multiprocessing", "ssl", "unittest"}
