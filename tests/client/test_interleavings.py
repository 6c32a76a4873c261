"""Random schedules of pushes, writes, answers and closes, without sockets, threads or a clock."""

from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from elman._core.session.operation import Operation
from elman._core.session.pipeline import Pipeline
from elman._core.session.session import Session
from elman._wire.prediction import Prediction
from tests.client.peer import ALPHABET, letters
from tests.client.peer_link import PeerLink, read


class Caller:
    """User of a session: the elements pushed by push, step and map, and the predictions read."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.sent = ""
        self.read: list[Prediction] = []
        self._waiting: list[Operation[Any]] = []
        self._pipeline: Pipeline | None = None
        self._batch: Iterator[Prediction] | None = None

    def do(self, action: str, text: str) -> None:
        """Starts an action, unless an earlier action still waits."""
        if self._waiting or self._pipeline or self.session.closing:
            return
        if action == "close":
            self.session.close()
            return
        self.sent += text
        if action == "push":
            self._waiting = [self.session.push(text)]
        elif action == "step":
            self._waiting = [self.session.step(letter) for letter in text]
        else:
            self._pipeline = Pipeline(self.session, text)
        self.go_on()

    def go_on(self) -> bool:
        """Advances the actions. Returns False if an action waits."""
        while self._waiting:
            try:
                next(self._waiting[0])
                return False
            except StopIteration as result:
                if result.value is not None:
                    self.read.append(result.value)
                self._waiting.pop(0)
        while self._pipeline:
            self._batch = self._batch or self._pipeline.batch()  # type: ignore[assignment]
            try:
                next(self._batch)  # type: ignore[arg-type]
                return False
            except StopIteration as result:
                self._batch = None
                if result.value is None:
                    self._pipeline = None
                else:
                    self.read.extend(result.value)
        return True

    @property
    def everything(self) -> str:
        """Text of all answers, in order of position, each once."""
        predictions = sorted([*self.read, *read(self.session)], key=lambda p: p.position)
        assert [p.position for p in predictions] == list(range(len(predictions)))
        return letters(predictions)


@settings(deadline=None)
@given(st.data())
def test_nothing_is_lost_doubled_or_reordered(data: st.DataObject) -> None:
    window = data.draw(st.integers(1, 9), "window")
    link = PeerLink(window=window, max_frame_bytes=data.draw(st.sampled_from([30, 100, 5000])))
    callers = [Caller(link.open(data.draw(st.sampled_from([None, ["echo"]])))) for _ in range(3)]
    actions = st.sampled_from(["push", "step", "map", "close", "write", "answer", "answer"])
    for _ in range(data.draw(st.integers(0, 40), "length")):
        match data.draw(actions, "action"):
            case "write":
                link.write()
            case "answer":
                numbers = data.draw(st.sets(st.sampled_from([1, 2, 3])))
                open_numbers = numbers & link.peer.unanswered.keys()
                counts = {n: data.draw(st.integers(0, window)) for n in sorted(open_numbers)}
                link.multiplexer.receive(link.peer.answer(counts))
            case action:
                caller = data.draw(st.sampled_from(callers))
                caller.do(action, data.draw(st.text(ALPHABET, min_size=1, max_size=20)))
        for caller in callers:
            caller.go_on()
            assert caller.session.in_flight <= window
    while not link.multiplexer.finished:
        while link.write():
            pass
        link.answer()
        for caller in callers:
            if caller.go_on():
                caller.session.close()
    assert [caller.everything for caller in callers] == [caller.sent for caller in callers]
    assert all(caller.session.failure is None for caller in callers)
