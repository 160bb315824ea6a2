"""`python -m tests.fuzz --cases 100000` runs the fuzz suites of this folder for longer than the tests do."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from tests.fuzz.suite import CASES, Suite, summary


def suites() -> dict[str, Suite]:
    """The `SUITE` of every test file of this folder, by name."""
    modules = [import_module(f"tests.fuzz.{path.stem}") for path in sorted(Path(__file__).parent.glob("test_fuzz_*.py"))]
    return {module.SUITE.name: module.SUITE for module in modules}


def main() -> None:
    """Run the suites that are named, or all; print their counts. The first case that fails ends the run with its number."""
    known = suites()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"one or more of {', '.join(known)}; all by default")
    parser.add_argument("--cases", type=int, default=CASES, help="cases of each suite")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case: repeats one that failed")
    given = parser.parse_args()
    if unknown := set(given.suites) - known.keys():
        parser.error(f"no suite {sorted(unknown)}; there are {', '.join(known)}")
    for name in given.suites or known:
        sys.stdout.write(f"{summary(name, known[name].run(given.cases, given.first))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
