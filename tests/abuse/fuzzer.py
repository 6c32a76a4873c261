"""Requests at random: nonsense, requests that are nearly right, and right ones with wrong bytes."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from google.protobuf.message import Message

from elman.v1 import inference_pb2 as pb

_NUMBERS = (0, 1, 2, 7, 255, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
_REALS = (0.0, -0.0, 1.0, -1.0, 3e38, 1e-40, 1e-45, float("nan"), float("inf"), float("-inf"))
_NAMES = (
    *("", "x", "next", "positive", "y", "image", "style", "gain", "start", "tilt", "sentiment"),
    *("../../etc/passwd", "\0", "a\nb", "é" * 300, "n" * 5000, "nobody"),
)
_TEXTS = ("", "a", "good", "\0", "\U0010ffff", "é", "\ufeff", "z" * 40, "a" * 1500, "a" * 20_000)
_KEPT_TICKETS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model, and what a right session of it looks like."""

    name: str
    elements: Callable[[Random, int], Mapping[str, str | bytes]]
    """So many right elements, as a push or a sequence has them."""
    contexts: Callable[[Random], Sequence[pb.ContextValue]] = lambda _: ()


def text(rng: Random, count: int) -> Mapping[str, str | bytes]:
    return {"text": "".join(rng.choices("abcdefgh ", k=count))}


def features(width: int) -> Callable[[Random, int], Mapping[str, str | bytes]]:
    return lambda rng, count: {"raw": floats(rng, width * count)}


def floats(rng: Random, count: int) -> bytes:
    return struct.pack(f"<{count}f", *(rng.random() for _ in range(count)))


@dataclass
class Rpc:
    """What one Stream RPC has said so far."""

    target: Target
    last: int = -1
    """The largest session number."""
    open: list[int] = field(default_factory=list)
    begun: bool = False


class Fuzzer:
    """The requests of one call. All follows from the seed, but for the tickets."""

    def __init__(self, seed: str, targets: Sequence[Target], tickets: list[bytes]) -> None:
        """`tickets`: real ones, to be used and altered; shared by all calls."""
        self.rng = Random(seed)
        self._targets = targets
        self._tickets = tickets

    def keep(self, ticket: bytes) -> None:
        if ticket and len(self._tickets) < _KEPT_TICKETS:
            self._tickets.append(ticket)

    def rpc(self) -> Rpc:
        return Rpc(self.rng.choice(self._targets))

    def frame(self, rpc: Rpc) -> bytes:
        """The next frame of an RPC."""
        kind = self.rng.random()
        if kind < 0.05:
            return self._noise(200)
        frame = self._nearly_right(rpc) if kind < 0.55 else self._wild(rpc)
        rpc.begun = True
        return self._perhaps_mutated(frame, 0.25)

    def predict(self) -> bytes:
        rng, target = self.rng, self.rng.choice(self._targets)
        request = pb.PredictRequest(model=target.name, version=self._rarely("", ("1", "2", "x")))
        if rng.random() < 0.5:
            count = rng.choice([0, 1, 7, 300])
            request = pb.PredictRequest(
                model=target.name,
                contexts=target.contexts(rng),
                **target.elements(rng, count),  # type: ignore[arg-type]
            )
        else:
            self._fill(request)
            request.contexts.extend(self._contexts())
        if rng.random() < 0.3:
            request.outputs.extend(self._outputs())
        return self._perhaps_mutated(request, 0.4)

    def get_model(self) -> bytes:
        rng = self.rng
        request = pb.GetModelRequest(
            name=rng.choice(self._targets).name if rng.random() < 0.6 else rng.choice(_NAMES),
            version=self._rarely("", ("1", "9" * 400, "-1")),
            ticket=self._ticket() if rng.random() < 0.5 else b"",
            session=self._rarely("", _NAMES),
        )
        return self._perhaps_mutated(request, 0.4)

    def list_models(self) -> bytes:
        return self._noise(30)

    def _nearly_right(self, rpc: Rpc) -> pb.StreamRequest:
        """Sessions that are opened, pushed to, asked for tickets and closed as they should."""
        rng, target = self.rng, rpc.target
        frame = pb.StreamRequest(model="" if rpc.begun else target.name)
        if not rpc.begun or rng.random() < 0.3:
            for _ in range(rng.choice([1, 1, 4, 40])):
                rpc.last = min(rpc.last + rng.choice([1, 1, 5]), 2**32 - 1)
                rpc.open.append(rpc.last)
                opening = pb.Open(
                    session=rpc.last, contexts=target.contexts(rng), parkable=rng.random() < 0.3
                )
                opening.ticket_every_elements = rng.choice([0, 0, 1, 100])
                if self._tickets and rng.random() < 0.1:
                    opening.ClearField("contexts")
                    opening.ticket = rng.choice(self._tickets)
                frame.opens.append(opening)
        if rpc.open and rng.random() < 0.9:
            sessions = rng.choices(rpc.open, k=rng.choice([1, 1, 3, 30]))
            counts = [rng.choice([0, 1, 1, 2, 40]) for _ in sessions]
            elements = target.elements(rng, sum(counts))
            frame.push.CopyFrom(pb.Push(sessions=sessions, counts=counts, **elements))  # type: ignore[arg-type]
        if rpc.open and rng.random() < 0.25:
            frame.closes.append(rpc.open.pop(rng.randrange(len(rpc.open))))
        if rpc.open and rng.random() < 0.25:
            frame.tickets.extend(rng.choices(rpc.open, k=2))
        return frame

    def _wild(self, rpc: Rpc) -> pb.StreamRequest:
        """Every field at random, with those values that code trips over."""
        rng = self.rng
        frame = pb.StreamRequest()
        if not rpc.begun or rng.random() < 0.05:
            frame.model = rpc.target.name if rng.random() < 0.9 else rng.choice(_NAMES)
            frame.version = self._rarely("", ("1", "0", "9" * 400, "x"))
        for _ in range(rng.choice([0, 1, 1, 3, 12])):
            following = min(rpc.last + 1, 2**32 - 1)
            rpc.last = following if rng.random() < 0.85 else self._number()
            frame.opens.append(self._open(rpc.last))
        if rng.random() < 0.8:
            frame.push.sessions.extend(self._sessions(rpc))
            if rng.random() < 0.5:
                frame.push.counts.extend(
                    rng.choice([1, 0, self._number()]) for _ in frame.push.sessions
                )
            self._fill(frame.push)
        for numbers in (frame.closes, frame.tickets):
            if rng.random() < 0.3:
                numbers.extend(self._sessions(rpc))
        return frame

    def _open(self, number: int) -> pb.Open:
        rng = self.rng
        return pb.Open(
            session=number,
            outputs=self._outputs() if rng.random() < 0.4 else (),
            contexts=self._contexts() if rng.random() < 0.5 else (),
            ticket=self._ticket() if rng.random() < 0.3 else b"",
            ticket_every_elements=rng.choice([0, 0, 1, 3, 2**32 - 1]),
            ticket_every_seconds=rng.choice([0.0, 0.0, 0.01, -1.0, 1e308, *_REALS]),
            fingerprint=self._rarely("", ("x", "f" * 10_000)),
            parkable=rng.random() < 0.3,
            name=self._rarely("", _NAMES),
            restart=rng.random() < 0.2,
            replay=rng.choice([None, None, self._number(), 2**64 - 1]),
        )

    def _outputs(self) -> list[pb.OutputRequest]:
        rng = self.rng
        requests = []
        for _ in range(rng.choice([1, 1, 2, 65])):
            request = pb.OutputRequest(name=rng.choice(_NAMES), k=self._number())
            request.form = rng.choice([0, 1, 2, 3, 99, -1, 2**31 - 1])  # type: ignore[assignment]
            requests.append(request)
        return requests

    def _contexts(self) -> list[pb.ContextValue]:
        rng = self.rng
        return [
            pb.ContextValue(name=rng.choice(_NAMES), raw=self._raw())
            for _ in range(rng.choice([0, 1, 3]))
        ]

    def _ticket(self) -> bytes:
        rng = self.rng
        if not self._tickets or rng.random() < 0.4:
            forged = b"\x01" + rng.randbytes(60)
            return rng.choice([b"x", forged, rng.randbytes(300), b"\x01" * 3000])
        ticket = bytearray(rng.choice(self._tickets))
        ticket[rng.randrange(len(ticket))] ^= 1 << rng.randrange(8)
        return bytes(ticket[: rng.choice([len(ticket), rng.randrange(len(ticket))])])

    def _fill(self, holder: pb.Push | pb.PredictRequest) -> None:
        kind = self.rng.random()
        if kind < 0.5:
            holder.text = self.rng.choice(_TEXTS)
        elif kind < 0.95:
            holder.raw = self._raw()

    def _raw(self) -> bytes:
        rng = self.rng
        return rng.choice(
            [
                b"",
                b"\0" * rng.choice([4, 8, 12]),
                rng.randbytes(rng.choice([1, 7, 8, 4096, 70_000])),
                struct.pack("<q", rng.choice([0, 1, 29, -1, 2**63 - 1, -(2**63)])),
                struct.pack("<3f", *rng.choices(_REALS, k=3)) * rng.choice([1, 4, 400]),
            ]
        )

    def _sessions(self, rpc: Rpc) -> list[int]:
        rng = self.rng
        near = [max(0, min(rpc.last + rng.choice([-2, -1, 0, 0, 1]), 2**32 - 1)) for _ in range(9)]
        return rng.choice([near, near[:1], [near[0]] * 30, [self._number() for _ in range(4)], []])

    def _number(self) -> int:
        return self.rng.choice(_NUMBERS) if self.rng.random() < 0.4 else self.rng.randrange(40)

    def _rarely(self, usual: str, others: Sequence[str]) -> str:
        return self.rng.choice(others) if self.rng.random() < 0.1 else usual

    def _noise(self, most: int) -> bytes:
        return self.rng.randbytes(self.rng.randrange(most))

    def _perhaps_mutated(self, message: Message, chance: float) -> bytes:
        content = message.SerializeToString()
        return self._mutated(content) if self.rng.random() < chance else content

    def _mutated(self, content: bytes) -> bytes:
        rng, data = self.rng, bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 16])):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(6):
                case 0 if at < len(data):
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    del data[at : at + rng.randrange(1, 9)]
                case 2:
                    data[at:at] = rng.randbytes(rng.randrange(1, 9))
                case 3:
                    # A number that is longer than any.
                    data[at:at] = b"\xff" * rng.choice([4, 9, 11])
                case 4:
                    del data[at:]
                case _:
                    data += data[:at]
        return bytes(data)
