"""Comparison of nodes: each reports its release and the digests of its bundles.

A bundle's digest is the hash of its manifest, which states the hash of every file; opening the bundle has compared graphs, sizes
and headers with it. Knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import __version__
from ..batch.digests import bundle_digest
from ..runtime.errors import BundleError, OmniGen2Error


@dataclass(frozen=True, kw_only=True)
class Report:
    """A node's release and bundles.

    digests: of each bundle, by its path.
    problem: the reason why a bundle can't be opened; None where all can.
    """

    version: str
    digests: Mapping[str, str]
    problem: str | None = None


def check_digest(path: str, expected: str) -> None:
    """Raises BundleError where the bundle is not the one that the server has."""
    if (digest := bundle_digest(path)) != expected:
        raise BundleError(f"{path!r} holds another bundle ({digest[:12]}) than on the server's machine ({expected[:12]})")


def report(paths: Sequence[str]) -> Report:
    """This node's report."""
    digests: dict[str, str] = {}
    try:
        for path in paths:
            digests[path] = bundle_digest(path)
    except OmniGen2Error as error:
        return Report(version=__version__, digests=digests, problem=str(error))
    return Report(version=__version__, digests=digests)


def check_reports(own: Report, others: Mapping[str, Report]) -> None:
    """Raises OmniGen2Error naming the first node that differs. others: by the nodes' addresses."""
    for node, other in sorted(others.items()):
        if other.version != own.version:
            raise OmniGen2Error(f"node {node} has omnigen2-rt {other.version}, this machine {own.version}: install the same")
        if other.problem is not None:
            raise OmniGen2Error(f"node {node}: {other.problem}; every node needs the bundle at the same path")
        for path, digest in own.digests.items():
            if other.digests[path] != digest:
                difference = f"({other.digests[path][:12]}) than this machine ({digest[:12]})"
                raise OmniGen2Error(f"node {node} has another bundle at {path!r} {difference}: copy it there")
