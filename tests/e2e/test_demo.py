"""`elman demo`, as a newcomer runs it."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("elman"))


def test_it_shows_every_model_and_the_servers_figures_and_ends_by_itself() -> None:
    done = subprocess.run(
        [PROGRAM, "demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in (
        "sentiment: the probability of",
        "wonderful",
        "weather: the next hour's temperature",
        "mean error over",
        "shakespeare: 300 letters",
        "64 sessions at once",
        "equal to the last bit",
        "sessions opened",
        "latency of an element, 99th percentile",
        "The server stopped cleanly.",
    ):
        assert text in done.stdout
    assert "\x1b" not in done.stdout
