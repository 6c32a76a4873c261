"""What only asyncio has: live async sources, cancellation, and the two ways to open."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

import elman
import elman.aio
from tests.client.fake_models import letter_totals
from tests.client.fake_server import FakeServer


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[elman.aio.Client]:
    async with elman.aio.connect(server.target) as client:
        yield client


async def test_map_holds_no_prediction_back_while_an_async_source_waits(
    client: elman.aio.Client,
) -> None:
    live: asyncio.Queue[str] = asyncio.Queue()

    async def source() -> AsyncIterator[str]:
        while letter := await live.get():
            yield letter

    async with client.stream("letters") as stream:
        predictions = stream.map(source())
        seen = []
        for letter in "live":
            live.put_nowait(letter)
            seen.append((await anext(predictions))["total"])
        assert seen == letter_totals("live")
        live.put_nowait("")
        assert await anext(predictions, None) is None


async def test_a_map_left_early_cancels_its_source(client: elman.aio.Client) -> None:
    cancelled = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with client.stream("letters") as stream:
        async for _ in stream.map(source()):
            break
        await asyncio.wait_for(cancelled.wait(), 5)


async def test_a_cancelled_step_leaves_its_prediction_to_the_stream(
    client: elman.aio.Client, server: FakeServer
) -> None:
    server.hold()
    async with client.stream("letters") as stream:
        step = asyncio.create_task(stream.step("a"))
        while stream.position == 0:
            await asyncio.sleep(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        server.release()
        assert (await anext(stream))["total"] == 1
        assert (await stream.step("b"))["total"] == letter_totals("ab")[-1]


async def test_a_cancelled_push_pushed_nothing(
    client: elman.aio.Client, server: FakeServer
) -> None:
    server.window = 1
    server.hold()
    async with client.stream("letters") as stream:
        await stream.push("a")
        push = asyncio.create_task(stream.push("b"))
        await asyncio.sleep(0)
        push.cancel()
        with pytest.raises(asyncio.CancelledError):
            await push
        server.release()
        await stream.close()
        assert [prediction["total"] async for prediction in stream] == [1]


async def test_a_cancelled_generate_pushes_no_more_of_its_prime(
    client: elman.aio.Client, server: FakeServer
) -> None:
    server.window = 4
    server.hold()
    async with client.stream("letters") as stream:
        symbols = stream.generate("a" * 100, length=1)
        generating = asyncio.ensure_future(anext(symbols))
        while stream.position == 0:
            await asyncio.sleep(0)
        generating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await generating
        server.release()
        assert (await stream.step("a"))["total"] == letter_totals("aaaaa")[-1]
        await stream.close()
        assert [prediction["total"] async for prediction in stream] == letter_totals("aaaa")


async def test_a_generate_that_times_out_pushes_no_more_of_its_prime(
    client: elman.aio.Client, server: FakeServer
) -> None:
    server.window = 4
    async with client.stream("letters") as stream:
        server.hold()
        stream._timeout = 0.05
        with pytest.raises(elman.DeadlineExceeded):
            await anext(stream.generate("a" * 100, length=1))
        stream._timeout = 60.0  # a busy machine may take its time from here on
        server.release()
        assert (await stream.step("a"))["total"] == letter_totals("aaaaa")[-1]


async def test_an_open_that_is_cancelled_is_not_left_at_the_server(
    client: elman.aio.Client, server: FakeServer
) -> None:
    async with client.stream("letters") as kept:
        for turns in range(30):
            opening = [asyncio.ensure_future(_open(client)) for _ in range(5)]
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            for each in opening:
                each.cancel()
            await asyncio.gather(*opening, return_exceptions=True)
        await kept.step("a")
    await client.close()
    opened = {opened.session for frame in server.frames for opened in frame.opens}
    closed = {number for frame in server.frames for number in frame.closes}
    assert opened == closed


async def test_a_cancelled_open_closes_its_session(
    client: elman.aio.Client, server: FakeServer
) -> None:
    async with client.stream("letters"):
        opening = asyncio.ensure_future(_open(client))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await client.close()
    opened = {opened.session for frame in server.frames for opened in frame.opens}
    closed = {number for frame in server.frames for number in frame.closes}
    assert opened == closed


async def test_streams_and_clients_can_be_awaited(server: FakeServer) -> None:
    client = await elman.aio.connect(server.target)
    stream = await client.stream("letters")
    assert (await stream.step("a"))["total"] == 1
    await stream.close()
    await client.close()


async def test_many_streams_opened_at_once_ask_for_their_model_once(
    client: elman.aio.Client, server: FakeServer
) -> None:
    streams = await asyncio.gather(*(_open(client) for _ in range(50)))
    assert len({stream.id for stream in streams}) == 50
    assert server.calls == ["GetModel", "Stream"]
    assert len(server.frames) < 50


async def test_what_tasks_push_meanwhile_goes_out_together(
    client: elman.aio.Client, server: FakeServer
) -> None:
    streams = await asyncio.gather(*(_open(client) for _ in range(64)))
    server.frames.clear()
    predictions = await asyncio.gather(*(stream.step("a") for stream in streams))
    assert [prediction["total"] for prediction in predictions] == [1] * 64
    assert len(server.frames) <= 2
    assert not server.frames[0].push.counts


async def test_a_plain_iterator_is_a_source_too(client: elman.aio.Client) -> None:
    def source() -> Iterator[str]:
        yield from "plain"

    async with client.stream("letters") as stream:
        assert [p["total"] async for p in stream.map(source())] == letter_totals("plain")


@pytest.mark.parametrize("elements", [None, 7, object])
async def test_what_is_no_source_is_refused_at_once(
    client: elman.aio.Client, elements: object
) -> None:
    async with client.stream("letters") as stream:
        with pytest.raises(elman.InvalidElement, match="allowed are a sequence"):
            stream.map(elements)


async def _open(client: elman.aio.Client) -> elman.aio.Stream:
    return await client.stream("letters")
