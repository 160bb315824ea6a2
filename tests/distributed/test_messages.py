"""Ray's reports, as the user sees them: a line of ours for each error, and nothing of Ray's own."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from omnigen2_rt.distributed.messages import MOST_LINES, SERVE, mute_serve, routed_messages

DEAD = "\x1b[33m(raylet)\x1b[0m A worker died or was killed by a system error. To troubleshoot, check\nthe logs. ID: 01"


@pytest.fixture
def ray() -> Any:
    """A double of Ray that prints, as Ray does."""

    def print_to_stdstream(data: dict[str, Any], ignore_prefix: bool) -> None:
        sys.stdout.write(str(data["lines"]))

    return SimpleNamespace(_private=SimpleNamespace(worker=SimpleNamespace(print_to_stdstream=print_to_stdstream)))


def report(ray: Any, text: str) -> None:
    ray._private.worker.print_to_stdstream({"lines": [text], "pid": "raylet", "is_err": False}, ignore_prefix=False)


def test_report_of_a_cluster_becomes_a_short_line_once(ray: Any, capsys: pytest.CaptureFixture[str]) -> None:
    notes: list[str] = []
    with routed_messages(ray, notes.append):
        report(ray, DEAD)
        report(ray, f"{DEAD.replace('01', '02')} {'x' * 1000}")
    assert notes == ["Ray: (raylet) A worker died or was killed by a system error"]
    assert capsys.readouterr() == ("", "")
    report(ray, DEAD)
    assert "raylet" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ray", "ray._private.worker", SERVE])
def test_logged_error_becomes_a_line_and_a_warning_is_left_out(ray: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    notes: list[str] = []
    logger, handlers = logging.getLogger(name), logging.getLogger("ray").handlers[:]
    with routed_messages(ray, notes.append):
        logger.warning("a warning")
        try:
            raise ValueError("inner")
        except ValueError:
            logger.exception("it failed. More of it")
    assert notes == ["Ray: it failed"] and capsys.readouterr() == ("", "")
    assert logging.getLogger("ray").handlers == handlers


def test_serve_says_nothing_behind_a_connection_and_again_in_the_next(ray: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Its threads outlive the connection, and printed a trace for each thing that they missed."""
    notes: list[str] = []
    mute_serve()
    logging.getLogger(SERVE).error("Ray has not been started yet")
    assert capsys.readouterr() == ("", "")
    with routed_messages(ray, notes.append):
        logging.getLogger(SERVE).error("it failed")
        assert notes == ["Ray: it failed"]
        mute_serve()
        logging.getLogger(SERVE).error("Ray has been shut down")
    assert notes == ["Ray: it failed"]


def test_cluster_that_goes_on_failing_fills_no_log(ray: Any) -> None:
    notes: list[str] = []
    with routed_messages(ray, notes.append):
        for number in range(2 * MOST_LINES):
            report(ray, f"failure {number}")
    assert len(notes) == MOST_LINES
