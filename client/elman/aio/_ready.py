"""Waits until a channel is connected."""

import asyncio

import grpc
from grpc import aio


async def wait_until_connected(channel: aio.Channel, seconds: float, *, patient: bool) -> bool:
    """Connects the channel. Returns whether the channel is connected within `seconds`.

    If not `patient`, the wait ends at the first failed try.
    """
    try:
        async with asyncio.timeout(None if seconds == float("inf") else seconds):
            while True:
                state = channel.get_state(try_to_connect=True)
                if state is grpc.ChannelConnectivity.READY:
                    return True
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and not patient:
                    return False
                await channel.wait_for_state_change(state)
    except TimeoutError:
        return False
