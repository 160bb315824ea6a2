"""`omnigen2 lora`: merges LoRAs into a bundle, lists the merged bundles, and removes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.errors import RequestError
from .merging import with_loras
from .options import LoraFolder, Loras
from .terminal import say_lines

if TYPE_CHECKING:
    from ..exporter.lora_store import StoredBundle


def lora(
    bundle: Annotated[str, typer.Argument(help="The bundle's folder, or nano.")],
    loras: Loras = None,
    list_merged: Annotated[bool, typer.Option("--list", help="List the merged bundles.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove all merged bundles of this bundle, with their engines.")] = False,
    lora_dir: LoraFolder = None,
) -> None:
    """Merge LoRAs into a bundle and print the folder of the result, which is a bundle that every command takes."""
    from ..exporter.lora_store import remove_stored, store_folders, stored_bundles
    from ..runtime.pipeline import bundle_path

    ways = [name for name, given in {"--lora": bool(loras), "--list": list_merged, "--prune": prune}.items() if given]
    if len(ways) != 1:
        raise RequestError(f"give one of --lora, --list and --prune{f', not {len(ways)}' if ways else ''}")
    if loras:
        say_lines(str(with_loras(bundle, loras, lora_dir)))
        return
    path = bundle_path(bundle)
    if list_merged:
        places = " or ".join(repr(str(store)) for store in store_folders(path, lora_dir))
        say_lines("\n".join(map(_line, stored_bundles(path, lora_dir))) or f"no merged bundles of {bundle!r} in {places}")
        return
    removal = remove_stored(path, lora_dir)
    for kept, problem in removal.kept.items():
        say_lines(f"left: {str(kept)!r}: {problem}")
    freed = sum(merged.size_bytes for merged in removal.removed)
    say_lines(f"removed {len(removal.removed)} merged bundles, {freed / 1e6:.1f} MB")


def _line(merged: StoredBundle) -> str:
    names = ", ".join(f"{each.name} × {each.scale:g}" for each in merged.loras)
    return f"{merged.path}: {names}; {merged.size_bytes / 1e6:.1f} MB"
