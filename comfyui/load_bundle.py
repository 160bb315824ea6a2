"""The node that opens a bundle."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from omnigen2_rt.runtime.backends import BACKENDS
from omnigen2_rt.runtime.dtypes import PRECISIONS
from omnigen2_rt.runtime.load_options import LoadOptions

from .bundles import MODEL_FOLDER, NANO, bundle_folder, bundle_names, content_digest
from .open_bundles import BundleSettings, open_bundle
from .sockets import BUNDLE

GB = 1_000_000_000


class LoadBundle(io.ComfyNode):
    """Opens a bundle; its components are loaded when a node first needs them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="OmniGen2RTLoadBundle",
            display_name="OmniGen2 Load Bundle",
            category="OmniGen2",
            description="Opens an OmniGen2 bundle, made by `omnigen2 export`. nano is the small model that ships.",
            inputs=[
                io.Combo.Input("bundle", bundle_names(), default=NANO, tooltip=f"nano, or a bundle in models/{MODEL_FOLDER}."),
                io.String.Input(
                    "folder", default="", tooltip="The absolute path of a bundle elsewhere; takes the place of the name."
                ),
                io.Combo.Input("backend", ["auto", *BACKENDS], default="auto", tooltip="auto takes the first that works here."),
                io.Combo.Input(
                    "precision",
                    ["auto", *PRECISIONS],
                    default="auto",
                    tooltip="auto takes the backend's best that the bundle holds.",
                ),
                io.Float.Input(
                    "memory_limit_gb",
                    default=0.0, min=0.0, max=4096.0, step=0.5, round=0.001,
                    tooltip="Keep open weights below this, closing components that aren't in use: slower. 0: no limit.",
                ),  # fmt: skip
                io.Int.Input("threads", default=0, min=0, max=1024, tooltip="CPU threads. 0: the backend decides."),
                io.Boolean.Input(
                    "keep_loaded",
                    default=True,
                    tooltip="Off: free the memory after each node, for other models; every node then loads its components anew.",
                ),
            ],
            outputs=[BUNDLE.Output(display_name="bundle")],
        )

    @classmethod
    def fingerprint_inputs(cls, bundle: str | None = None, folder: str | None = None, **others: object) -> str:
        """The content of the bundle on disk: a workflow is run anew after the bundle was exported anew."""
        return content_digest(bundle_folder(bundle or NANO, folder or ""))

    @classmethod
    def execute(
        cls,
        bundle: str,
        folder: str,
        backend: str,
        precision: str,
        memory_limit_gb: float,
        threads: int,
        keep_loaded: bool,
    ) -> io.NodeOutput:
        """Open the bundle, or take the one that is open already."""
        path: Path = bundle_folder(bundle, folder)
        limit = round(memory_limit_gb * GB) or None
        options = LoadOptions(backend=backend, precision=precision, memory_limit_bytes=limit, threads=threads or None)
        settings = BundleSettings(folder=path, digest=content_digest(path), options=options, keeps_memory=keep_loaded)
        return io.NodeOutput(open_bundle(settings))
