"""The imports between the packages, read from the source: the design's arrows, held in one table."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.repository.sources import (
    EXPORTER_LIBRARIES,
    FOLDERS,
    NODE_FOLDER,
    PACKAGE,
    ROOT,
    Import,
    imports_of,
    module_name,
    modules,
    node_files,
)

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "": ("runtime",),
    "__main__": ("cli",),
    "cli": ("commands", "runtime.errors"),
    "batch": ("batch", "evaluation", "rewriting", "runtime"),
    "commands": (
        "batch", "commands", "distributed", "evaluation", "exporter", "nano", "pairs", "rewriting", "runtime", "serving",
    ),  # fmt: skip
    "distributed": ("batch", "distributed", "evaluation", "rewriting", "runtime", "serving"),
    "evaluation": ("evaluation", "runtime"),
    "exporter": (
        "exporter", "plugins", "reference", "runtime.backends", "runtime.bundle", "runtime.dtypes", "runtime.errors",
        "runtime.files", "runtime.manifest", "runtime.progress",
    ),  # fmt: skip
    "exporter.quantize": ("exporter", "reference", "runtime"),  # it draws with a bundle, to calibrate and to compare
    "exporter.verify": ("exporter", "reference", "runtime"),  # it draws with a bundle and with the reference
    "nano": ("nano", "runtime"),
    "nano.training": ("exporter", "nano", "reference", "runtime"),
    "pairs": ("pairs", "rewriting", "runtime"),
    "plugins": ("plugins",),
    "reference": ("reference", "runtime.files"),
    "rewriting": ("evaluation", "rewriting", "runtime"),
    "runtime": ("plugins", "runtime"),
    "serving": ("evaluation", "rewriting", "runtime", "serving"),
}
"""For each part of the package, the parts it may import. The longest entry that fits counts. "" is the public API."""

LIGHT_IN_COMMANDS = ("commands", "exporter.engines.options", "pairs.frame_settings", "runtime")
"""All that the command line may import before it knows which command was given."""

RUNTIME_NEEDS = {"PIL", "ml_dtypes", "numpy", "tokenizers"}
BACKEND_NEEDS = {"cuda", "onnxruntime", "openvino"}

NODES_MAY_IMPORT = ("runtime",)
"""The modules that the nodes for ComfyUI may import beside the public API."""
NODES_NEED = {"PIL", "comfy", "comfy_api", "comfy_execution", "folder_paths", "numpy", "torch"}
"""All of it is there where ComfyUI is."""

PATHS = sorted(modules().values())


def part_of(module: str) -> str:
    """`omnigen2_rt.runtime.bundle` -> `runtime.bundle`, `omnigen2_rt` -> ``."""
    return module.removeprefix(PACKAGE).removeprefix(".")


def covers(part: str, module: str) -> bool:
    """Whether `module` is `part` or lies in it."""
    return module == part or module.startswith(f"{part}.")


def target_of(statement: Import) -> str:
    """The module that an import loads: `from ..runtime import errors` loads `runtime.errors` if that is a module."""
    inner = f"{statement.module}.{statement.name}"
    return inner if inner in modules() else statement.module


def is_ours(statement: Import) -> bool:
    return covers(PACKAGE, statement.module)


def allowed_for(path: Path) -> tuple[str, ...]:
    module = part_of(module_name(path))
    rules = [part for part in MAY_IMPORT if part and covers(part, module)] or [""]
    return MAY_IMPORT[max(rules, key=len)]


def is_of_the_command_line(path: Path) -> bool:
    return path == Path("cli.py") or path.parts[0] == "commands"


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_import_of_our_own_is_relative(path: Path) -> None:
    absolute = [f"{path}:{statement.line}" for statement in imports_of(path) if is_ours(statement) and not statement.is_relative]
    assert not absolute, f"inside the package imports are relative: {absolute}"


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_import_of_our_own_finds_a_tracked_file(path: Path) -> None:
    """A file that .gitignore hides works here and is missing from every clone."""
    ours = [statement for statement in imports_of(path) if is_ours(statement)]
    lost = [f"{path}:{statement.line} imports {statement.module}" for statement in ours if statement.module not in modules()]
    assert not lost, f"{lost}: git does not hold such a file"


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_import_follows_the_direction_of_the_design(path: Path) -> None:
    allowed = allowed_for(path)
    wrong = [
        f"{path}:{statement.line} imports {target_of(statement)}"
        for statement in imports_of(path)
        if is_ours(statement)
        and not (target_of(statement) == PACKAGE and statement.name == "__version__")
        and not any(covers(part, part_of(target_of(statement))) for part in allowed)
    ]
    assert not wrong, f"{wrong}; allowed here: {', '.join(allowed)}"


@pytest.mark.parametrize("path", [path for path in PATHS if is_of_the_command_line(path)], ids=str)
def test_import_in_cli_is_made_by_the_command_that_needs_it(path: Path) -> None:
    early = [
        f"{path}:{statement.line} imports {target_of(statement)}"
        for statement in imports_of(path)
        if is_ours(statement)
        and statement.when_imported
        and not statement.is_for_types_only
        and target_of(statement) != PACKAGE
        and not any(covers(part, part_of(target_of(statement))) for part in LIGHT_IN_COMMANDS)
    ]
    assert not early, f"{early}: import it inside the command, so that --help needs only the base"


def is_of_the_base(path: Path) -> bool:
    """The runtime and nano, but not how nano was trained."""
    return path.parts[0] in ("nano", "runtime") and path.parts[:2] != ("nano", "training")


@pytest.mark.parametrize("path", [path for path in PATHS if is_of_the_base(path)], ids=str)
def test_import_in_runtime_or_nano_is_of_the_base_or_of_an_engine_in_its_backend(path: Path) -> None:
    is_backend = path.parts[:2] == ("runtime", "backends")
    allowed = {*sys.stdlib_module_names, *RUNTIME_NEEDS, *(BACKEND_NEEDS if is_backend else ())}
    foreign = [
        f"{path}:{statement.line} imports {statement.module}"
        for statement in imports_of(path)
        if not is_ours(statement) and statement.module.partition(".")[0] not in allowed
    ]
    assert not foreign, f"{foreign}; besides the standard library: {sorted(allowed - sys.stdlib_module_names)}"


@pytest.mark.parametrize("path", node_files(), ids=str)
def test_import_in_a_node_reaches_the_package_by_its_name_and_its_own_folder_by_a_dot(path: Path) -> None:
    """ComfyUI imports the folder under a name of its own: it lies in no package, and the package may lie anywhere."""
    own = f"{PACKAGE}.{NODE_FOLDER}"
    allowed = {*sys.stdlib_module_names, *NODES_NEED}
    wrong = []
    for statement in imports_of(path):
        if covers(own, statement.module):
            is_right = statement.is_relative and any(statement.module == module_name(file) for file in node_files())
        elif is_ours(statement):
            target = target_of(statement)
            is_right = not statement.is_relative and (
                target == PACKAGE or any(covers(part, part_of(target)) for part in NODES_MAY_IMPORT)
            )
        else:
            is_right = statement.module.partition(".")[0] in allowed
        if not is_right:
            wrong.append(f"{path}:{statement.line} imports {statement.module}")
    assert not wrong


@pytest.mark.parametrize(("engine", "files"), [("onnxruntime", "ort"), ("openvino", "openvino"), ("cuda", "tensorrt")])
def test_import_of_an_engine_is_made_late_and_by_its_own_backend(engine: str, files: str) -> None:
    written = [
        (path, statement)
        for path in PATHS
        if path.parts[0] == "runtime"
        for statement in imports_of(path)
        if statement.module.partition(".")[0] == engine
    ]
    assert written
    wrong = [f"{path}:{it.line}" for path, it in written if it.when_imported or not path.parts[2].startswith(files)]
    assert not wrong, f"{wrong} import {engine}: only runtime/backends/{files} may, inside its functions"


def test_import_of_ray_is_made_late_and_in_distributed_alone() -> None:
    """The server, and every other command, runs where Ray is not installed."""
    written = [(path, it) for path in PATHS for it in imports_of(path) if it.module.partition(".")[0] == "ray"]
    assert written
    wrong = [f"{path}:{it.line}" for path, it in written if it.when_imported or path.parts[0] != "distributed"]
    assert not wrong, f"{wrong} import Ray: only distributed/ may, inside its functions"


def test_nvidias_libraries_are_imported_late_by_name_or_by_the_plugin() -> None:
    """Which of them is imported is a value, so the statement is `import_module`: inside a function, and in one file."""
    named = {
        str(path): statement.when_imported
        for path in PATHS
        for statement in imports_of(path)
        if statement.module.partition(".")[0] in ("tensorrt", "tensorrt_rtx")
    }
    assert named == {"plugins/omni_rope/plugin.py": True}
    library = modules_calling_import_module("runtime/backends/tensorrt")
    assert library == {"runtime/backends/tensorrt/library.py": False}


def modules_calling_import_module(folder: str) -> dict[str, bool]:
    """The files below a folder that call `import_module`, and whether any of their calls runs at import."""
    calling = {}
    for path in PATHS:
        if not path.is_relative_to(folder):
            continue
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        late = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)}
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module"]
        if calls:
            calling[str(path)] = any(id(call) not in late for call in calls)
    return calling


def loaded_by(module: str, *, also_inside_functions: bool) -> set[str]:
    """The modules that a module's import statements load, and the packages that its own name passes through."""
    parts = module.split(".")
    packages = {".".join(parts[:end]) for end in range(1, len(parts))}
    statements = [
        statement
        for statement in imports_of(modules()[module])
        if not statement.is_for_types_only and (statement.when_imported or also_inside_functions)
    ]
    return packages | {statement.module for statement in statements} | {target_of(statement) for statement in statements}


def heavy_reached_from(start: str) -> dict[str, str]:
    """Each heavy library that `start` can load, and the way there.

    Imports inside functions count for the runtime's own files: nothing there may want torch, however late. In the
    plugins' files they don't, because the runtime doesn't call the functions that make graphs.
    """
    reached: dict[str, str] = {}
    ways, waiting = {start: start}, [start]
    while waiting:
        module = waiting.pop()
        for target in loaded_by(module, also_inside_functions=covers("runtime", part_of(module))):
            if target.partition(".")[0] in EXPORTER_LIBRARIES:
                reached.setdefault(target, f"{ways[module]} -> {target}")
            if target in modules() and target not in ways:
                ways[target] = f"{ways[module]} -> {target}"
                waiting.append(target)
    return reached


def is_light(path: Path) -> bool:
    """The public API, the command line, the runtime, nano, and what importing the plugins or one of them by name runs."""
    is_package_of_plugins = path.parts[0] == "plugins" and path.name == "__init__.py"
    return is_package_of_plugins or is_of_the_base(path) or is_of_the_command_line(path) or path == Path("__init__.py")


LIGHT_MODULES = sorted(name for name, path in modules().items() if is_light(path))


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_import_of_a_light_module_never_reaches_an_exporter_library(module: str) -> None:
    assert heavy_reached_from(module) == {}


def test_rules_name_every_folder() -> None:
    assert {*FOLDERS} <= MAY_IMPORT.keys()


def room_of(module: str) -> str:
    """The folder that a module lies in, or the module itself where it stands in a part's own folder: what a reader sees."""
    parts = part_of(module).split(".")
    is_package = modules()[module].name == "__init__.py"
    return ".".join(parts[:2]) if len(parts) > 2 or is_package else part_of(module)


@pytest.mark.parametrize("place_of", [part_of, room_of], ids=["modules", "rooms"])
def test_imports_form_no_circle(place_of: Callable[[str], str]) -> None:
    """Not between modules, late imports included, and not between rooms."""
    graph: dict[str, set[str]] = {}
    for module, path in modules().items():
        targets = {target_of(statement) for statement in imports_of(path) if is_ours(statement)}
        places = {place_of(target) for target in targets if target in modules() and target != PACKAGE}
        graph.setdefault(place_of(module), set()).update(places - {place_of(module)})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")
