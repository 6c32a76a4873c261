"""Engines that are checked to leave nothing behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from math import inf

import pytest

from elman_server.engine.admission import Admission, Waiting
from elman_server.engine.engine import Engine, EngineSettings
from elman_server.engine.jobs.estimates import Estimates
from elman_server.engine.jobs.runner import Runner
from elman_server.engine.limits import Chunking, StepLimits
from elman_server.engine.scheduler import Scheduler
from tests.server.engine.shell import INLINE, STOPPING, Serve, Served
from tests.server.fakes import ArithmeticRunner, Recorder


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts engines, and checks that they leave nothing behind."""
    all_served: list[Served] = []

    def start(
        runner: Runner | None = None,
        *,
        step_seconds: float = INLINE,
        max_batch_size: int = 8,
        max_chunk: int = 4,
        max_sessions: int = 100,
        max_context_bytes: int = 10**6,
        park_after: float = inf,
        inline: bool = True,
        step_timeout: float = inf,
        stuck: Callable[[bool], None] = lambda stuck: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Served:
        admission = Admission(
            max_sessions=max_sessions,
            max_pending_elements=10**6,
            max_context_bytes=max_context_bytes,
            retry_after=1.0,
        )
        recorder = Recorder()
        limits = StepLimits(
            max_batch_size=max_batch_size,
            max_step_elements=1000,
            max_chunk=max_chunk,
            chunking=Chunking.RAGGED,
            max_init_batch_size=max_batch_size,
        )
        engine = Engine(
            settings=EngineSettings(name="fake", park_after=park_after, step_timeout=step_timeout),
            scheduler=Scheduler(limits),
            runner=runner or ArithmeticRunner(),
            estimates=Estimates(
                step_seconds=lambda rows, chunk: step_seconds,
                init_seconds=lambda rows: step_seconds,
                data_dependent=not inline,
            ),
            admission=admission,
            observer=recorder,
            stuck=stuck,
            clock=clock,
        )
        admission.watch(
            Waiting(elements=lambda: engine.backlog, context_nbytes=lambda: engine.context_nbytes)
        )
        engine.start()
        all_served.append(Served(engine, admission, recorder))
        return all_served[-1]

    yield start
    for served in all_served:
        await served.engine.drain(STOPPING, grace=0)
        await served.engine.stop()
        # What the last step told the loop is heard first.
        await asyncio.sleep(0)
        assert served.engine.sessions == 0
        assert served.engine.pending == 0
        assert served.engine.slots == 0
        assert served.admission.sessions == 0
        assert len(served.recorder.ended) == served.recorder.opened
