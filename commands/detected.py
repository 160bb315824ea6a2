"""The work of `omnigen2 eval geneval`: scores the detections that the user supplies, prints and writes the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..runtime.errors import OmniGen2Error
from .score_tables import score_table, verdict_line
from .terminal import note, say_lines

Write = Callable[[dict[str, Any]], None]


def score_detections(detections: Path, against: Path | None, allow_incomplete: bool, write: Write) -> None:
    """Score GenEval's pictures from detections. Raises OmniGen2Error where verdicts are missing."""
    from ..evaluation.geneval import gap_lines, prompt_differences, read_detections, score_pictures
    from ..evaluation.results import average_facts

    ours = score_pictures(read_detections(detections), allow_incomplete)
    facts = {"benchmark": "geneval", "pictures": ours.pictures, "unjudged": ours.unjudged, "is_whole": ours.is_whole}
    facts |= average_facts({"accuracy": ours.average})
    say_lines("\n".join([*gap_lines(ours), score_table(str(detections), {"accuracy": ours.average})]))
    if against is not None:
        theirs = score_pictures(read_detections(against), allow_incomplete)
        say_lines("\n".join([*gap_lines(theirs), score_table(str(against), {"accuracy": theirs.average})]))
        has_total = allow_incomplete or (ours.is_complete and theirs.is_complete)
        difference = prompt_differences(ours, theirs, has_total)
        facts |= average_facts({"difference": difference})
        say_lines(score_table(f"{detections} minus {against}", {"accuracy": difference}, signed=True))
        say_lines(verdict_line(detections.stem, against.stem, difference))
    write(facts)
    if ours.unjudged and not allow_incomplete:
        raise OmniGen2Error(
            f"{ours.unjudged} of {ours.pictures} pictures have no verdict, because detections or colours are missing; "
            "--allow-incomplete averages the rest"
        )
    if not ours.is_whole and not allow_incomplete:
        note("no average is given, because this is not the whole published set; --allow-incomplete gives one")
