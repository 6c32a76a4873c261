"""What is counted, and what its quantiles are."""

import numpy as np
import pytest

from elman.bench.recorder import Latencies, Recorder


def test_only_what_is_answered_while_it_measures_counts() -> None:
    recorder = Recorder(10.0, 12.0)
    for now in (9.9, 10.0, 11.0, 12.0):
        recorder.answered(now, np.array([now - 0.5, now - 1.5]))
    assert (recorder.elements, recorder.frames, recorder.per_second) == (4, 2, 2.0)
    assert recorder.latencies() == Latencies(p50=1.0, p99=1.5, p999=1.5, highest=1.5, frames=2)


def test_an_open_loop_counts_what_was_due_then_however_late_it_comes() -> None:
    recorder = Recorder(10.0, 12.0, by_due=True)
    recorder.answered(20.0, np.array([9.0, 10.0, 11.0, 12.0]))
    recorder.answered(20.0, np.array([12.5]))
    assert (recorder.elements, recorder.frames) == (2, 1)
    found = recorder.latencies()
    assert found is not None
    assert found.highest == 10.0


@pytest.mark.parametrize("by_due", [False, True])
def test_elements_that_come_alone_count_as_they_would_together(by_due: bool) -> None:
    one, all_at_once = (Recorder(10.0, 12.0, by_due=by_due) for _ in range(2))
    for now, sent in ((9.5, 9.0), (10.5, 9.5), (11.0, 10.5), (12.5, 11.5), (13.0, 12.5)):
        one.answered_alone(now, sent)
        all_at_once.answered(now, np.array([sent]))
    assert one.elements == all_at_once.elements == 2
    assert one.latencies() == all_at_once.latencies() is not None


def test_a_rate_does_not_depend_on_which_frame_is_the_last_in_time() -> None:
    """Frames of 100 elements, each 0.3 s after the one before."""
    for late in np.linspace(0.0, 0.3, 7).tolist():
        recorder = Recorder(10.0, 11.0)
        for now in np.arange(9.0 + late, 12.0, 0.3).tolist():
            recorder.answered(now, np.full(100, now - 0.1))
        assert recorder.per_second == pytest.approx(100 / 0.3)


def test_a_stall_at_the_end_lowers_the_rate() -> None:
    recorder = Recorder(10.0, 11.0)
    for now in (10.0, 10.1, 10.2, 15.0):
        recorder.answered_alone(now, now - 0.1)
    assert recorder.per_second == pytest.approx(3 / 5.0)


def test_what_was_never_answered_took_as_long_as_it_was_waited_for() -> None:
    recorder = Recorder(10.0, 12.0, by_due=True)
    recorder.answered(11.0, np.full(97, 10.5))
    recorder.never_answered(3, 10.0)
    assert recorder.elements == 97
    found = recorder.latencies()
    assert found is not None
    assert (found.p50, found.p99) == (0.5, 10.0)


def test_nothing_answered_has_no_latencies() -> None:
    assert Recorder(0.0, 1.0).latencies() is None


def test_quantiles_are_of_elements_and_not_of_frames() -> None:
    recorder = Recorder(0.0, 10.0)
    recorder.answered(5.0, np.full(999, 4.0))
    recorder.answered(5.0, np.full(1, 0.0))
    found = recorder.latencies()
    assert found is not None
    assert (found.p50, found.p99, found.highest) == (1.0, 1.0, 5.0)
