"""Model cards: a model's purpose and data, and its quality beside baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from elman_export.writer import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The parts of a card; every text is Markdown."""

    title: str
    does: str
    """Inputs and outputs."""
    data: str
    """The training data, with source and licence."""
    split: str
    """The held-out part, and the choice of the shipped weights."""
    measured: Sequence[tuple[str, ...]]
    """A table with its header first: figures of the model and of the baselines."""
    limits: str
    """Uses for which the model is not good."""
    command: str

    def write(self, path: Path, report: Report) -> None:
        """Writes the card to `path`, with today's date and the figures of the export."""
        header, *rows = self.measured
        table = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
        states = ", ".join(f"`{state.name}` {list(state.shape)}" for state in report.spec.states)
        worst = max(difference.maximum for difference in report.differences)
        paragraphs = [
            f"# {self.title}",
            self.does,
            "## Measured",
            "\n".join(f"| {' | '.join(row)} |" for row in table),
            self.split,
            "## Data",
            self.data,
            "## Limits",
            self.limits,
            "## Made by",
            f"```\n{self.command}\n```",
            f"on {date.today().isoformat()}: {report.size:,} bytes; state {states}, "
            f"{report.spec.state_bytes:,} bytes a session. The step model differs from the module "
            f"that was trained by at most {worst:.1e}, and not by a bit from itself however a "
            "sequence is cut up.",
        ]
        path.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
