"""A session that pushes as fast as it may, in a process of its own.

    python -m benchmarks.performance.bulk TARGET MODEL

maps characters until it is ended, and says when the first predictions are there. It stands back
where cores are short: elsewhere it is on a machine of its own, and here it must not keep the client
that measures from a core.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import elman
from elman.bench.load import Load

INTERACTIVE = Load(sessions=100, rate=1000.0, warm_up=0.3)
"""Those that are beside it: each gets 10 elements a second, as if typed fast, at random times."""
_AT_ONCE = 1_000_000


def push(target: str, model: str) -> None:
    with elman.connect(target) as client, client.stream(model) as stream:
        while True:
            for prediction in stream.map("a" * _AT_ONCE):
                if prediction.position == 0:
                    print("pushing", flush=True)


@contextmanager
def process(target: str, model: str) -> Iterator[None]:
    """It pushes inside, and is gone afterwards. Raises `RuntimeError` if it can't."""
    command = [sys.executable, "-m", "benchmarks.performance.bulk", target, model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            if not child.stdout.readline():
                raise RuntimeError("the bulk session did not start")
            yield
        finally:
            child.kill()


if __name__ == "__main__":
    os.nice(19)
    push(*sys.argv[1:])
