"""What a check found: figures to keep, and faults."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.benchmarks.results import percentile

MAX_FAULTS = 20  # that are kept in words


@dataclass(slots=True)
class Outcome:
    """What a check found.

    check        Its name.
    figures      What was counted and measured, by name; units are in the names.
    faults       Sentences; none: the check holds. At most MAX_FAULTS are kept.
    num_faults   How many there were.
    """

    check: str
    figures: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    num_faults: int = 0

    def expect(self, holds: bool, sentence: str) -> None:
        """Count a fault unless the condition holds."""
        if not holds:
            self.num_faults += 1
            if len(self.faults) < MAX_FAULTS:
                self.faults.append(sentence)

    def add_times(self, name: str, seconds: Sequence[float]) -> None:
        """Add the median, the 99th percentile and the largest of these times, in milliseconds."""
        for label, share in (("p50", 50), ("p99", 99), ("max", 100)):
            self.figures[f"{name}_{label}_ms"] = round(1000 * percentile(seconds, share), 2)


def show(outcomes: Sequence[Outcome]) -> None:
    """Print the outcomes as a table."""
    table = Table("check", "figure", "value")
    for outcome in outcomes:
        for number, (name, value) in enumerate(outcome.figures.items()):
            table.add_row(outcome.check if number == 0 else "", name, str(value))
        table.add_row("", "faults", str(outcome.num_faults), style="bold red" if outcome.num_faults else "green")
        table.add_section()
    console = Console(width=120)
    console.print(table)
    for outcome in outcomes:
        for fault in outcome.faults:
            console.print(f"{outcome.check}: {fault}", markup=False, highlight=False)
