"""The options of rewriting, which several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.errors import RequestError
from .endpoint_options import endpoint_client

if TYPE_CHECKING:
    from ..rewriting.plan import RewritePlan

Rewrites = Annotated[bool, typer.Option("--rewrite", help="Let a language model make the prompt long; by default the bundle's.")]
RewriterURL = Annotated[
    str | None, typer.Option("--rewriter", metavar="URL", help="With --rewrite: an OpenAI-compatible endpoint that writes.")
]
RewriterModel = Annotated[str | None, typer.Option("--rewriter-model", help="The model at that endpoint.")]
RewriterKey = Annotated[
    str, typer.Option(metavar="VARIABLE", help="The environment variable that holds the key of the rewriter's endpoint.")
]
RewriteTemplate = Annotated[
    Path | None, typer.Option("--rewrite-template", help="With --rewrite: a text with {prompt}, instead of our own.")
]


def rewrite_plan(
    rewrites: bool, url: str | None, model: str | None, key_variable: str, template: Path | None
) -> RewritePlan | None:
    """The plan of these options, or None without --rewrite. Raises RequestError for options that don't belong together."""
    if not rewrites:
        if (url, model, template) != (None, None, None):
            raise RequestError("--rewriter, --rewriter-model and --rewrite-template belong to --rewrite")
        return None
    from ..rewriting.plan import RewritePlan
    from ..rewriting.templates import Templates, read_templates

    client = endpoint_client("--rewriter", url, model, key_variable)
    templates = Templates() if template is None else read_templates(template)
    return RewritePlan(templates=templates, endpoint=None if client is None else client.endpoint)
