"""The fuzzer leaves no field of an open out."""

from elman.v1 import inference_pb2 as pb
from tests.abuse.fuzzer import Fuzzer, Target, text


def test_every_field_of_an_open_is_filled() -> None:
    fuzzer = Fuzzer("17", [Target(name="sentiment", elements=text)], [b"a real ticket"])
    opens = [fuzzer._open(number) for number in range(1000)]
    filled = {field.name for message in opens for field, _ in message.ListFields()}
    assert filled == set(pb.Open.DESCRIPTOR.fields_by_name)
