"""One connection of a load: a Stream RPC with its sessions."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray

from elman.bench.elements import Elements
from elman.bench.flight import Flight
from elman.bench.recorder import Recorder
from elman.bench.schedule import Schedule
from elman.v1 import inference_pb2 as pb

_OPENS = 1000
"""Sessions opened per frame."""
_TIMER = 2e-3
"""Precision of the event loop's timers, in seconds, with a margin.

A shorter wait sleeps on a thread. A busy wait would take the core needed for the measurement.
"""
_PATIENCE = 10.0
"""Seconds to wait for answers after the last element of an open loop."""

clock = time.perf_counter


class LoadFailed(Exception):
    """The server ended a session, or the RPC."""


@dataclass(frozen=True, slots=True)
class _Places:
    """Sessions and positions of a message's predictions, with an entry for each prediction."""

    rows: NDArray[np.int64]
    """Sessions, 0-based."""
    positions: NDArray[np.int64]

    @staticmethod
    def of(part: pb.Predictions) -> "_Places":
        size = len(part.sessions)
        rows = np.fromiter(part.sessions, np.int64, size) - 1
        positions = np.fromiter(part.first_positions, np.int64, size)
        if part.counts:
            counts = np.fromiter(part.counts, np.int64, size)
            rows = np.repeat(rows, counts)
            starts = np.cumsum(counts) - counts
            positions = np.repeat(positions - starts, counts) + np.arange(len(rows))
        return _Places(rows, positions)


class Peer:
    """Sessions 1, 2, ... on a Stream RPC. `call` has no frames written yet."""

    def __init__(
        self,
        call: "grpc.aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]",
        first: pb.StreamRequest,
        opening: pb.Open,
        *,
        sessions: int,
        elements: Elements,
    ) -> None:
        """`first` names the model. `opening` opens each session; a name gets the session's number
        appended."""
        self._call = call
        self._first = first
        self._opening = opening
        self._sessions = sessions
        self._elements = elements
        self._pushed = 0

    async def open(self) -> None:
        """Opens all sessions, and waits for the server's answers."""
        await self._call.write(self._first)
        for start in range(1, self._sessions + 1, _OPENS):
            frame = pb.StreamRequest()
            for number in range(start, min(start + _OPENS, self._sessions + 1)):
                opening = frame.opens.add()
                opening.CopyFrom(self._opening)
                opening.session = number
                if opening.name:
                    opening.name += f" {number}"
            await self._call.write(frame)
        opened = 0
        while opened < self._sessions:
            opened += len((await self._read()).opened)

    async def closed_loop(self, window: int, recorder: Recorder) -> None:
        """Keeps `window` elements of each session unanswered, until the recorder stops."""
        if self._sessions == window == 1:
            await self._one_by_one(recorder)
            return
        sent = np.full((self._sessions, window), clock())
        await self._push(range(1, self._sessions + 1), [window] * self._sessions)
        while (now := clock()) < recorder.stop:
            response = await self._read()
            now = clock()
            for part in response.predictions:
                places = _Places.of(part)
                here = places.rows, places.positions % window
                recorder.answered(now, sent[here])
                sent[here] = now
                await self._push(part.sessions, part.counts)

    async def _one_by_one(self, recorder: Recorder) -> None:
        """Closed loop for one element of one session, without the overhead of batches."""
        while (sent := clock()) < recorder.stop:
            await self._push((1,), ())
            answered = 0
            while not answered:
                answered = len((await self._read()).predictions)
            recorder.answered_alone(clock(), sent)

    async def open_loop(self, schedule: Schedule, start: float, recorder: Recorder) -> int:
        """Pushes elements at their due times, in seconds from `start`.

        Returns the number of elements not answered in time.
        """
        flight = Flight()
        writer = asyncio.create_task(self._push_when_due(schedule, start, flight))
        due = schedule.due(self._sessions)
        total = len(schedule.times)
        try:
            async with asyncio.timeout(recorder.stop - clock() + _PATIENCE):
                while flight.answered < total:
                    response = await self._read()
                    now = clock()
                    for part in response.predictions:
                        places = _Places.of(part)
                        recorder.answered(now, start + due.at(places.rows, places.positions))
                        flight.land(len(places.rows))
        except TimeoutError:
            writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        unanswered = total - flight.answered
        recorder.never_answered(unanswered, _PATIENCE)
        return unanswered

    def cancel(self) -> None:
        self._call.cancel()

    async def _push_when_due(self, schedule: Schedule, start: float, flight: Flight) -> None:
        done, times, numbers = 0, schedule.times, schedule.sessions + 1
        while done < len(times):
            now = clock() - start
            wait = times[done] - now
            if wait > _TIMER:
                await asyncio.sleep(wait - _TIMER)
            elif wait > 0:
                await asyncio.to_thread(time.sleep, wait)
            elif flight.is_full:
                await flight.changed()
            else:
                due = int(np.searchsorted(times, now, side="right"))
                flight.start(due)
                await self._push(numbers[done:due].tolist(), ())
                done = due

    async def _push(self, sessions: Iterable[int], counts: Iterable[int]) -> None:
        frame = pb.StreamRequest()
        push = frame.push
        push.sessions.extend(sessions)
        push.counts.extend(counts)
        count = sum(push.counts) if push.counts else len(push.sessions)
        self._elements.put(push, self._pushed, count)
        self._pushed += count
        await self._call.write(frame)

    async def _read(self) -> pb.StreamResponse:
        response = await self._call.read()
        if not isinstance(response, pb.StreamResponse):
            raise LoadFailed(f"the server ended the RPC: {await self._call.details() or 'no word'}")
        for closed in response.closed:
            raise LoadFailed(f"the server ended a session: {closed.message}")
        return response
