"""The checks before anything is served: nodes' bundles, what a replica reserves, the cluster's address."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt.batch.digests import bundle_digest
from omnigen2_rt.distributed.identity import Report, check_reports, report
from omnigen2_rt.distributed.settings import ReplicaSettings
from omnigen2_rt.runtime.errors import OmniGen2Error, RequestError
from omnigen2_rt.runtime.pipeline import NANO

OWN = Report(version="1.0", digests={"/models/x": "a" * 64})


def test_digest_is_that_of_the_content(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(NANO, copy, ignore=shutil.ignore_patterns("engines", "compiled"))
    assert bundle_digest(str(copy)) == bundle_digest("nano")
    manifest = copy / "bundle.json"
    manifest.write_text(manifest.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert bundle_digest(str(copy)) != bundle_digest("nano")


def test_report_holds_the_digests_or_the_problem(tmp_path: Path) -> None:
    assert report(["nano"]).digests == {"nano": bundle_digest("nano")}
    missing = report(["nano", str(tmp_path / "x")])
    assert missing.problem is not None and "is not a bundle" in missing.problem


def test_nodes_that_agree_pass() -> None:
    check_reports(OWN, {"10.0.0.1": OWN, "10.0.0.2": OWN})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            Report(version="1.0", digests={"/models/x": "b" * 64}),
            "node 10.0.0.2 has another bundle at '/models/x' (bbbbbbbbbbbb) than this machine (aaaaaaaaaaaa): copy it there",
        ),
        (
            Report(version="1.1", digests=OWN.digests),
            "node 10.0.0.2 has omnigen2-rt 1.1, this machine 1.0: install the same",
        ),
        (
            Report(version="1.0", digests={}, problem="'/models/x' is not a bundle"),
            "node 10.0.0.2: '/models/x' is not a bundle; every node needs the bundle at the same path",
        ),
    ],
)
def test_node_that_differs_is_named(other: Report, said: str) -> None:
    with pytest.raises(OmniGen2Error) as refused:
        check_reports(OWN, {"10.0.0.1": OWN, "10.0.0.2": other})
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"least": 0}, "--min-replicas=0 is out of range; 1 to 1000 are allowed"),
        ({"least": 3, "most": 2}, "--max-replicas=2 is out of range; 3 to 1000 are allowed here"),
        ({"start_s": 0.0}, "--replica-wait=0 is out of range; 1 to 86400 seconds are allowed"),
        ({"start_s": float("nan")}, "--replica-wait=nan is out of range"),
        ({"gpus": 1.5}, "--gpus-per-replica=1.5 is neither a fraction below 1 nor a whole number, as Ray wants it"),
        ({"cpus": -1}, "--cpus-per-replica=-1 is out of range; 0 to 1024 are allowed"),
        ({"cpus": float("nan")}, "--cpus-per-replica=nan is out of range"),
    ],
)
def test_settings_refuse_what_ray_refuses(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as refused:
        ReplicaSettings(**values)
    assert said in str(refused.value)


@pytest.mark.parametrize(("cpus", "threads"), [(0.0, 1), (0.5, 1), (1.0, 1), (8.0, 8)])
def test_replica_has_a_thread_for_each_processor_that_it_reserves(cpus: float, threads: int) -> None:
    assert ReplicaSettings(cpus=cpus).threads == threads
