"""Whole sequences through the SDK, and whose CPU they take."""

import time
from collections.abc import Callable
from random import Random

import elman
from benchmarks.models import VOCABULARY
from benchmarks.performance.run import Whole
from elman.bench.usage import Usage

_LENGTH = 5000
"""Elements of a sequence that `predict` takes: with 96 float32 each, half of a message's limit."""


def predict(target: str, model: str, usage: Callable[[], Usage], elements: int) -> Whole:
    """Sequences of 5,000 elements, one after another, and all predictions of each as an array."""
    with elman.connect(target) as client:

        def run(text: str) -> int:
            return sum(
                len(client.predict(model, text[start : start + _LENGTH])["next"])
                for start in range(0, len(text), _LENGTH)
            )

        return _measured(run, usage, elements)


def map(target: str, model: str, usage: Callable[[], Usage], elements: int) -> Whole:
    """One sequence, and each prediction as it comes."""
    with elman.connect(target) as client, client.stream(model) as stream:

        def run(text: str) -> int:
            count = 0
            for prediction in stream.map(text):
                prediction["next"]
                count += 1
            return count

        return _measured(run, usage, elements)


def _measured(run: Callable[[str], int], usage: Callable[[], Usage], elements: int) -> Whole:
    """`run` takes a text and says how many predictions it got."""
    text = "".join(Random(0).choices(VOCABULARY, k=elements))
    run(text[:_LENGTH])
    before, start, used = usage(), time.perf_counter(), time.process_time()
    count = run(text)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    server = usage().since(before)
    if count != elements:
        raise RuntimeError(f"{count} predictions of {elements} elements")
    return Whole(
        elements=count,
        per_second=count / seconds,
        client_cpu=used / count,
        server_cpu=server.cpu_seconds / count,
    )
