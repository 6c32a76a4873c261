"""JSON that every parser takes, whatever the numbers."""

import json
from math import inf, nan

import pytest

from elman.cli.document import document


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def parsed(value: object) -> object:
    return json.loads(document(value), parse_constant=refuse)


def test_finite_numbers_are_numbers() -> None:
    assert parsed({"a": [1, 2.5, (3,), None, True, "ä"]}) == {"a": [1, 2.5, [3], None, True, "ä"]}
    assert document("ä") == '"ä"'


@pytest.mark.parametrize(("number", "text"), [(nan, "NaN"), (inf, "Infinity"), (-inf, "-Infinity")])
def test_what_json_has_no_number_for_is_a_string(number: float, text: str) -> None:
    assert parsed(number) == text
    assert parsed({"a": [(1.0, {"b": number})]}) == {"a": [[1.0, {"b": text}]]}
