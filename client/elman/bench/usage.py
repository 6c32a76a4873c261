"""Resources used by a server, from its own metrics."""

import urllib.request
from dataclasses import dataclass

_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    cpu_seconds: float
    resident_bytes: float
    steps: float
    """Steps of all models."""
    rows: float
    """Sessions in those steps."""

    @staticmethod
    def scrape(url: str) -> "Usage":
        """Reads a server's metrics page.

        Raises `OSError` without an answer, and `KeyError` if the page is not of an Elman server.
        """
        # Imported here: the parser comes with the server extra, and the client has no other use for
        # it.
        from prometheus_client.parser import text_string_to_metric_families

        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            text = response.read().decode()
        totals: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        return Usage(
            cpu_seconds=totals["process_cpu_seconds_total"],
            resident_bytes=totals["process_resident_memory_bytes"],
            steps=totals.get("elman_step_batch_size_count", 0.0),
            rows=totals.get("elman_step_batch_size_sum", 0.0),
        )

    def since(self, before: "Usage") -> "Usage":
        """Usage between two readings; the memory is the present reading."""
        return Usage(
            cpu_seconds=self.cpu_seconds - before.cpu_seconds,
            resident_bytes=self.resident_bytes,
            steps=self.steps - before.steps,
            rows=self.rows - before.rows,
        )
