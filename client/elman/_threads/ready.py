"""Waits until a channel is connected."""

import threading

import grpc


def wait_until_connected(channel: grpc.Channel, seconds: float, *, patient: bool) -> bool:
    """Connects the channel. Returns whether the channel is connected within `seconds`.

    If not `patient`, the wait ends at the first failed try.
    """
    decided = threading.Event()
    states: list[grpc.ChannelConnectivity] = []

    def watch(state: grpc.ChannelConnectivity) -> None:
        states.append(state)
        failed = state is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        if state is grpc.ChannelConnectivity.READY or (failed and not patient):
            decided.set()

    channel.subscribe(watch, try_to_connect=True)
    try:
        decided.wait(min(seconds, threading.TIMEOUT_MAX))
    finally:
        channel.unsubscribe(watch)
    return grpc.ChannelConnectivity.READY in states
