"""One lawful frame that is as full as a frame may be: others do not wait for it.

pytest -s tests/abuse/test_frames.py             and with -m slow, more of each
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from elman.v1 import inference_pb2 as pb
from tests.abuse.comparison import Comparison
from tests.abuse.http2 import STREAM, Connection, packed
from tests.serverprocess import ServerProcess

MANY = 65_000
"""A frame may name sessions 65,536 times."""
NEVER = 2**32 - 1
"""A number that is not open."""


@dataclass(frozen=True, slots=True)
class Frame:
    make: Callable[[], pb.StreamRequest]
    model: str = "sentiment"


def _opens(**fields: object) -> Callable[[], pb.StreamRequest]:
    return lambda: pb.StreamRequest(
        opens=[pb.Open(session=number, **fields) for number in range(MANY)]  # type: ignore[arg-type]
    )


def _outputs() -> pb.StreamRequest:
    return pb.StreamRequest(
        opens=[
            pb.Open(
                session=number,
                outputs=[
                    pb.OutputRequest(name="next", form=pb.FORM_TOP, k=1 + (number * 7 + each) % 65)
                    for each in range(1 + number % 60)
                ],
            )
            for number in range(4000)
        ]
    )


ONE = [pb.Open(session=0)]
FRAMES = {
    "opens": Frame(_opens()),
    "opens that are refused": Frame(_opens(outputs=[pb.OutputRequest(name="nope")])),
    "opens with forged tickets": Frame(_opens(ticket=b"\x01" + b"x" * 48)),
    "opens of a foreign fingerprint": Frame(_opens(fingerprint="f" * 40)),
    "opens of different outputs": Frame(_outputs, "shakespeare"),
    "closes of what never was": Frame(lambda: pb.StreamRequest(closes=range(2**32 - MANY, 2**32))),
    "closes of what was just opened": Frame(
        lambda: pb.StreamRequest(
            opens=[pb.Open(session=number) for number in range(32_000)], closes=range(32_000)
        )
    ),
    "pushes to what never was": Frame(
        lambda: pb.StreamRequest(push=pb.Push(sessions=[NEVER] * MANY, text="a" * MANY))
    ),
    "pushes of one element to each of many": Frame(
        lambda: pb.StreamRequest(
            opens=[pb.Open(session=number) for number in range(32_000)],
            push=pb.Push(sessions=range(32_000), text="a" * 32_000),
        )
    ),
    "pushes of nothing": Frame(
        lambda: pb.StreamRequest(
            opens=ONE, push=pb.Push(sessions=[0] * MANY, counts=[0] * MANY, text="")
        )
    ),
    "ticket requests": Frame(lambda: pb.StreamRequest(opens=ONE, tickets=[0] * MANY)),
    "elements": Frame(
        lambda: pb.StreamRequest(opens=ONE, push=pb.Push(sessions=[0], text="a" * 4_100_000))
    ),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_nobody_waits_for_a_full_frame(server: ServerProcess, kind: str) -> None:
    frame = FRAMES[kind]
    first = packed(pb.StreamRequest(model=frame.model))
    fat = packed(frame.make())

    def bout() -> str:
        with Connection(server.target) as connection:
            call = connection.open(STREAM, first=first)
            assert connection.send(call, fat)
            connection.read(0.8)
        return f"{kind}: {len(fat):,} bytes"

    Comparison(target=server.target, longest=0.5).run(bout)
