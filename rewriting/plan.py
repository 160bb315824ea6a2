"""The plan of rewriting: a value that can be sent to another process, which makes a rewriter of it there."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from ..evaluation.asking import without_thoughts
from ..evaluation.endpoint import (
    Endpoint,
    EndpointClient,
    EndpointError,
    EndpointUnusable,
    OnWait,
    Question,
    QuestionRefused,
)
from ..runtime.chat.conversation import OnToken
from ..runtime.files.json_text import json_hash
from ..runtime.pipeline import Pipeline
from .rewriter import CUT_OFF, Rewriter, Write, Written
from .templates import Templates

MAX_TOKENS = 512
"""The most tokens of a rewrite by the bundle's own language model."""
MAX_ENDPOINT_TOKENS = 4096
"""Room for the thoughts of models that think before they answer."""
MOST_FAILURES = 5
"""Prompts in a row without an answer of the endpoint that end the work."""
BUNDLE_WRITER = "bundle"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class RewritePlan:
    """The settings of a rewriter.

    templates: the questions to the model.
    endpoint: the model's; None for the bundle's own model. Its key travels with the plan.
    """

    templates: Templates = field(default_factory=Templates)
    endpoint: Endpoint | None = None

    @property
    def writer(self) -> str:
        """The name of what writes: the endpoint's model, or "bundle"."""
        return BUNDLE_WRITER if self.endpoint is None else self.endpoint.model

    def open(self, pipeline: Pipeline, on_wait: OnWait | None = None, on_token: OnToken | None = None) -> Rewriter:
        """A rewriter. on_token: called while the bundle's model writes; returning False cancels, and the prompt stays.

        Raises BundleError where the bundle can only draw and no endpoint is named.
        """
        if self.endpoint is not None:
            return Rewriter(endpoint_writer(EndpointClient(self.endpoint, on_wait)), self.writer, self.templates)
        return Rewriter(bundle_writer(pipeline, on_token), self.writer, self.templates)

    def digest(self, bundle: str) -> str:
        """SHA-256 of everything that decides a rewrite, and of the bundle's digest, hexadecimal."""
        where = None if self.endpoint is None else [self.endpoint.url, self.endpoint.model]
        facts = {"format": _FORMAT, "bundle": bundle, "templates": dataclasses.asdict(self.templates), "endpoint": where}
        return json_hash(facts)


def bundle_writer(pipeline: Pipeline, on_token: OnToken | None = None) -> Write:
    """Writes with the bundle's own language model: words only and greedy, so that the same prompt gives the same rewrite.

    Raises BundleError where the bundle can only draw.
    """
    _ = pipeline.language_model.chat

    def write(question: str) -> Written:
        answer = pipeline.chat(question, may_draw=False, temperature=0.0, max_new_tokens=MAX_TOKENS, on_token=on_token)
        is_whole = answer.finish_reason == "stop"
        return Written(text=answer.text, problem=None if is_whole else f"the rewrite was refused, because {CUT_OFF}")

    return write


def endpoint_writer(client: EndpointClient) -> Write:
    """Writes with a model behind an endpoint. Its functions raise EndpointError where the endpoint doesn't answer.

    After MOST_FAILURES questions in a row without an answer they raise EndpointUnusable.
    """
    failures = 0

    def write(question: str) -> Written:
        nonlocal failures
        try:
            answer = client.ask(Question(parts=(question,), max_tokens=MAX_ENDPOINT_TOKENS))
        except QuestionRefused as error:
            failures = 0
            return Written(problem=str(error))
        except EndpointUnusable:
            raise
        except EndpointError as error:
            failures += 1
            if failures < MOST_FAILURES:
                raise
            raise EndpointUnusable(f"{error}; {failures} prompts in a row could not be rewritten") from error
        failures = 0
        if answer.refusal:
            return Written(problem="the model refused to rewrite it")
        problem = f"the rewrite was refused, because {CUT_OFF}" if answer.is_cut_off else None
        return Written(text=without_thoughts(answer.text), problem=problem)

    return write
