"""Streams over real sockets: every test runs over threads and over asyncio."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

import elman
from tests.client.fake_models import LETTERS, REFUSED, letter_totals
from tests.client.fake_server import FakeServer


def totals(predictions: Iterator[elman.Prediction]) -> list[int]:
    return [prediction["total"] for prediction in predictions]


def test_a_step_pushes_one_element_and_gives_its_prediction(client: elman.Client) -> None:
    with client.stream("letters") as stream:
        predictions = [stream.step(letter) for letter in "good"]
        assert stream.position == 4
    assert [prediction.position for prediction in predictions] == [0, 1, 2, 3]
    assert totals(iter(predictions)) == letter_totals("good")


def test_map_gives_the_predictions_of_a_string_in_order(client: elman.Client) -> None:
    text = LETTERS.replace(REFUSED, "") * 20
    with client.stream("letters") as stream:
        predictions = list(stream.map(text))
    assert [prediction.position for prediction in predictions] == list(range(len(text)))
    assert totals(iter(predictions)) == letter_totals(text)


def test_map_goes_on_where_the_stream_is(client: elman.Client) -> None:
    with client.stream("letters") as stream:
        stream.step("a")
        assert totals(stream.map("bc")) == letter_totals("abc")[1:]
        assert totals(stream.map(iter("de"))) == letter_totals("abcde")[3:]
        assert totals(stream.map("")) == []
        assert totals(stream.map(iter(""))) == []


def test_map_holds_no_prediction_back_while_its_source_blocks(server: FakeServer) -> None:
    asked = threading.Semaphore(0)

    def live() -> Iterator[str]:
        for letter in "live":
            asked.acquire()
            yield letter

    with elman.connect(server.target) as client, client.stream("letters") as stream:
        predictions = stream.map(live())
        seen = []
        for _ in "live":
            asked.release()
            seen.append(next(predictions)["total"])
        assert seen == letter_totals("live")
        assert next(predictions, None) is None


def test_map_raises_the_error_of_its_source_after_what_came_before(client: elman.Client) -> None:
    def broken() -> Iterator[str]:
        yield from "ab"
        raise OSError("the microphone is gone")

    with client.stream("letters") as stream:
        predictions = stream.map(broken())
        assert [next(predictions)["total"], next(predictions)["total"]] == letter_totals("ab")
        with pytest.raises(OSError, match="microphone"):
            next(predictions)


def test_map_raises_for_a_wrong_element_of_an_iterator(client: elman.Client) -> None:
    with client.stream("letters") as stream:
        predictions = stream.map(iter("aB"))
        assert next(predictions)["total"] == 1
        with pytest.raises(elman.InvalidElement, match="'B'"):
            next(predictions)


def test_a_source_is_not_consumed_more_than_a_window_ahead(
    client: elman.Client, server: FakeServer
) -> None:
    server.window = 4
    taken = []

    def source() -> Iterator[str]:
        for letter in "a" * 1000:
            taken.append(letter)
            yield letter

    with client.stream("letters") as stream:
        predictions = stream.map(source())
        for _ in range(10):
            next(predictions)
        # Read, and unread, and in flight, and one in the hand.
        assert len(taken) <= 10 + 4 + 4 + 1
        predictions.close()  # type: ignore[attr-defined]


def test_a_map_left_early_leaves_no_thread_or_task(client: elman.Client) -> None:
    with client.stream("letters") as stream:
        predictions = stream.map(iter("a" * 1000))
        next(predictions)
        predictions.close()  # type: ignore[attr-defined]
        for thread in threading.enumerate():
            if thread.name == "elman-map":
                thread.join(5)
                assert not thread.is_alive()


def test_what_a_map_left_unread_can_be_read_from_the_stream(
    client: elman.Client, server: FakeServer
) -> None:
    server.window = 3
    with client.stream("letters") as stream:
        predictions = stream.map("abcdef")
        next(predictions)
        predictions.close()  # type: ignore[attr-defined]
        pushed = stream.position
        stream.close()
        assert totals(iter(stream)) == letter_totals("abcdef")[1:pushed]


def test_pushed_elements_are_read_by_iterating_until_the_close(client: elman.Client) -> None:
    with client.stream("letters") as stream:
        stream.push("a")
        stream.push_many("bc")
        stream.push_many("")
        assert next(stream)["total"] == 1
        stream.close()
        assert totals(iter(stream)) == letter_totals("abc")[1:]
        assert next(stream, None) is None


def test_one_thread_pushes_while_another_reads(client: elman.Client) -> None:
    text = "full duplex " * 50
    with client.stream("letters") as stream:

        def push() -> None:
            for letter in text:
                stream.push(letter)
            stream.close()

        pusher = threading.Thread(target=push)
        pusher.start()
        assert totals(iter(stream)) == letter_totals(text)
        pusher.join()


def test_a_step_gets_its_own_prediction_past_unread_ones(client: elman.Client) -> None:
    with client.stream("letters") as stream:
        stream.push_many("ab")
        assert stream.step("c")["total"] == letter_totals("abc")[-1]
        stream.close()
        assert totals(iter(stream)) == letter_totals("ab")


def test_many_streams_share_one_rpc_and_keep_their_states_apart(
    client: elman.Client, server: FakeServer
) -> None:
    texts = [LETTERS[i : i + 5].replace(REFUSED, "a") for i in range(20)]
    streams = [client.stream("letters") for _ in texts]
    seen: list[list[int]] = [[] for _ in texts]

    def run(i: int) -> None:
        seen[i] = [streams[i].step(letter)["total"] for letter in texts[i]]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for stream in streams:
        stream.close()
    assert seen == [letter_totals(text) for text in texts]
    assert server.calls.count("Stream") == 1
    numbers = [opened.session for frame in server.frames for opened in frame.opens]
    assert numbers == sorted(set(numbers))


def test_the_rpc_ends_with_its_last_session_and_a_new_one_begins(
    client: elman.Client, server: FakeServer
) -> None:
    for _ in range(3):
        with client.stream("letters") as stream:
            stream.step("a")
            stream.close()
            assert next(stream, None) is None
    assert server.calls.count("Stream") == 3


def test_tokens_are_ids_or_names(client: elman.Client) -> None:
    with client.stream("tokens", outputs=["total"]) as stream:
        assert stream.step(3)["total"] == 4
        assert stream.step("token2")["total"] == 4 + 3 * 2
        assert totals(stream.map([0, "token1", np.int16(2)])) == [13, 21, 36]
        for element in (-1, len(LETTERS), True, 1.0, "token99", [1]):
            with pytest.raises(elman.InvalidElement):
                stream.step(element)


def test_features_are_arrays_of_the_inputs_shape(client: elman.Client) -> None:
    with client.stream("pairs") as stream:
        assert stream.step([1, 2])["sums"].tolist() == [1, 2]
        sums = [p["sums"].tolist() for p in stream.map(np.array([[1.0, 1.0], [0.5, 0.0]]))]
        assert sums == [[2, 3], [2.5, 3]]
        for element in ([1], [[1, 2]], 1.0, [1, np.nan], [1, 1e39], "ab", [1j, 1]):
            with pytest.raises(elman.InvalidElement):
                stream.step(element)


def test_scalar_features_are_numbers(client: elman.Client) -> None:
    with client.stream("scalars") as stream:
        level = stream.step(1.5)["level"]
        assert (level, type(level)) == (1.5, float)
        assert [p["level"] for p in stream.map([1, np.float32(2)])] == [2.5, 4.5]


def test_a_stream_gets_the_outputs_that_it_asks_for(client: elman.Client) -> None:
    asked: list[elman.OutputChoice] = [elman.Top("next", 2), "total"]
    with client.stream("letters", outputs=asked) as top, client.stream("letters") as raw:
        prediction = top.step("a")
        assert list(prediction) == ["next", "total"]
        assert prediction["next"].indices.tolist() == [1, 0]
        assert [entry.label for entry in prediction.top(2)] == ["b", "a"]
        assert raw.step("a").top()[0] == prediction.top()[0]
