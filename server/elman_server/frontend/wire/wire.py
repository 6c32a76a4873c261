"""Serialization of predictions.

Predictions are most of a server's output, so their numbers go from a step's arrays into the frame
in one copy. Protobuf's own messages would take three copies. Protobuf serializes all other
messages.
"""

from elman.v1 import inference_pb2 as pb
from elman_server.engine.outboxes.delivery import Delivery
from elman_server.model.selection import Buffer

_LENGTH_DELIMITED = 2


def _tag(message: str, field: str) -> bytes:
    number: int = pb.DESCRIPTOR.message_types_by_name[message].fields_by_name[field].number
    return bytes([number << 3 | _LENGTH_DELIMITED])


_PREDICTIONS = _tag("StreamResponse", "predictions")
_OUTPUTS = _tag("Predictions", "outputs")
_VALUES = _tag("Values", "values")
_INDICES = _tag("Values", "indices")


def predictions(delivery: Delivery) -> list[Buffer]:
    """Returns a `StreamResponse` with only a delivery's predictions, in parts to be joined."""
    head = pb.Predictions(sessions=delivery.numbers, first_positions=delivery.first_positions)
    if delivery.counts.count(1) != len(delivery.counts):
        head.counts.extend(delivery.counts)
    parts: list[Buffer] = [head.SerializeToString()]
    for column in delivery.selection.encode(delivery.outputs):
        values = _field(_VALUES, column.values)
        if column.indices:
            values += _field(_INDICES, column.indices)
        parts += _prefixed(_OUTPUTS, values)
    return _prefixed(_PREDICTIONS, parts)


def _field(tag: bytes, value: Buffer) -> list[Buffer]:
    return [tag + _varint(len(value)), value]


def _prefixed(tag: bytes, parts: list[Buffer]) -> list[Buffer]:
    return [tag + _varint(sum([len(part) for part in parts])), *parts]


def _varint(number: int) -> bytes:
    """Encodes a number with seven bits per byte, lowest first. The eighth bit is set if more bytes
    follow."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
