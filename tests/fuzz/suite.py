"""A fuzz suite: numbered cases that end in an allowed outcome, and the counts of their outcomes."""

from __future__ import annotations

import atexit
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import mkdtemp

CASES = 400
"""The cases of a suite in the tests; `python -m tests.fuzz --cases N` runs more."""
LONGEST_MESSAGE = 300
COUNTS = "fuzz"
"""The property of a test's report that holds the counts."""


@dataclass(frozen=True)
class Suite:
    """A suite of cases.

    name: what is fuzzed.
    run_case: runs the case that the source of randomness gives. Returns the name of its outcome, such as "opened" or "refused";
    another exception than the allowed ones passes through.
    """

    name: str
    run_case: Callable[[Random], str]

    def run(self, cases: int = CASES, first: int = 0) -> Counter[str]:
        """The number of cases by outcome. Raises AssertionError with the case's number for any exception that left it."""
        outcomes: Counter[str] = Counter()
        for case in range(first, first + cases):
            try:
                outcomes[self.run_case(Random(f"{self.name} {case}"))] += 1
            except BaseException as error:  # also pyo3's PanicException, which is no Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                raise AssertionError(f"{self.name}, case {case}: {type(error).__name__}: {str(error)[:1000]}") from error
        return outcomes


def record_counts(suite: Suite, record_property: Callable[[str, object], None]) -> Counter[str]:
    """Run the suite in a test. Its counts stand at the end of pytest's output, see tests/conftest.py."""
    outcomes = suite.run()
    record_property(COUNTS, summary(suite.name, outcomes))
    return outcomes


def scratch_folder() -> Path:
    """A new temporary folder, which goes when the process ends."""
    folder = mkdtemp(prefix="omnigen2-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def summary(name: str, outcomes: Counter[str]) -> str:
    """The counts as a line."""
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
    return f"{name}: {sum(outcomes.values()):,} cases: {counts}"


def check_message(error: BaseException) -> None:
    """Raises AssertionError for an error whose message isn't one printable line of at most `LONGEST_MESSAGE` characters."""
    message = str(error)
    assert message, "the message is empty"
    assert message.isprintable(), f"the message is not one printable line: {message!r}"
    assert len(message) <= LONGEST_MESSAGE, f"the message has {len(message)} characters: {message}"
