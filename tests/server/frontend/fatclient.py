"""A client in a process of its own: sends the frames of a file over one Stream RPC and reads all
that comes, or leaves at once.

usage: fatclient.py TARGET FILE stays|leaves
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import grpc

target, file, how = sys.argv[1:]
frames: list[bytes] = pickle.loads(Path(file).read_bytes())
with grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
    stream: Any = channel.stream_stream("/elman.v1.Inference/Stream")
    call = stream(iter(frames), timeout=60)
    if how == "leaves":
        next(call)
        call.cancel()
    else:
        for _ in call:
            pass
        assert call.code() is grpc.StatusCode.OK, call.details()
