"""The package's files as the guards in this folder see them: paths, module names, and the imports each file makes.

Reads source text only; it imports nothing of the package, so it also works where an optional dependency is missing.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "omnigen2_rt"

ROOT_MODULES = ("__init__.py", "__main__.py", "cli.py")
"""The only Python files that may lie at the top level: each one there becomes a module of the package."""

FOLDERS = (
    "batch", "commands", "distributed", "evaluation", "exporter", "nano", "pairs", "plugins", "reference", "rewriting", "runtime",
    "serving",
)  # fmt: skip
"""The top-level folders that are parts of the package. All others are not in the wheel."""

NODE_FOLDER = "comfyui"
"""A folder for ComfyUI's `custom_nodes`. It is imported from there, beside an installed package."""

OTHER_FOLDERS = (".ci", ".typing", "benchmarks", NODE_FOLDER, "docs", "tests")

EXPORTER_LIBRARIES = frozenset(
    {"diffusers", "huggingface_hub", "onnx", "onnx_ir", "onnxscript", "safetensors", "torch", "transformers"}
)
"""Packages that the exporter needs and the runtime must never reach."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported module, or one name imported from a module."""

    module: str
    """Absolute and dotted, relative imports resolved: `omnigen2_rt.runtime.errors`, `numpy`."""
    name: str | None
    """The name in `from module import name`; None for `import module`."""
    line: int
    is_relative: bool
    when_imported: bool
    """True where it runs as the module is imported, False inside a function."""
    is_for_types_only: bool
    """True under `if TYPE_CHECKING:`."""


@cache
def tracked_files() -> tuple[Path, ...]:
    """The files that git holds or would add, relative to the root. In a copy without git: all but compiled ones."""
    if (ROOT / ".git").exists():
        listing = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
        kinds = ["--cached", "--others", "--exclude-standard"]
        output = subprocess.run([*listing, *kinds], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return tuple(sorted(path for name in output.split("\0") if name and (ROOT / (path := Path(name))).exists()))
    top = [path for path in ROOT.iterdir() if path.is_file()]
    inside = [path for folder in (*FOLDERS, *OTHER_FOLDERS) for path in (ROOT / folder).rglob("*") if path.is_file()]
    return tuple(sorted(path.relative_to(ROOT) for path in top + inside if "__pycache__" not in path.parts))


@cache
def package_files() -> tuple[Path, ...]:
    """The tracked files that belong in the wheel."""
    top = {*ROOT_MODULES, "py.typed"}
    return tuple(path for path in tracked_files() if path.parts[0] in FOLDERS or str(path) in top)


@cache
def node_files() -> tuple[Path, ...]:
    """The Python files of the folder for ComfyUI."""
    return tuple(path for path in tracked_files() if path.parts[0] == NODE_FOLDER and path.suffix == ".py")


@cache
def modules() -> dict[str, Path]:
    """Each module of the package by its dotted name."""
    return {module_name(path): path for path in package_files() if path.suffix == ".py"}


def module_name(path: Path) -> str:
    """`runtime/bundle.py` -> `omnigen2_rt.runtime.bundle`, `runtime/__init__.py` -> `omnigen2_rt.runtime`."""
    parts = path.with_suffix("").parts
    return ".".join((PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)))


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import statement of a file, wherever in the file it stands."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return tuple(_imports_in(tree, package, when_imported=True, for_types=False))


def _imports_in(node: ast.AST, package: str, *, when_imported: bool, for_types: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for module, name in _targets(node, package):
            yield Import(
                module=module,
                name=name,
                line=node.lineno,
                is_relative=isinstance(node, ast.ImportFrom) and node.level > 0,
                when_imported=when_imported,
                is_for_types_only=for_types,
            )
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    guarded = node.body if isinstance(node, ast.If) and _asks_type_checking(node.test) else []
    for child in ast.iter_child_nodes(node):
        yield from _imports_in(
            child, package, when_imported=when_imported and not is_function, for_types=for_types or child in guarded
        )


def _targets(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str | None]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, None) for alias in node.names)
        return
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    module = ".".join([*above, *([node.module] if node.module else [])])
    yield from ((module, alias.name) for alias in node.names)


def _asks_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
