"""JSON for scripts: a value on a single line, valid for all numbers.

JSON has no NaN and no infinity. As in the JSON of protobuf, the strings `"NaN"`, `"Infinity"` and
`"-Infinity"` stand for such numbers; many scripts would read `null` as 0.
"""

import json
from collections.abc import Mapping
from math import inf, isnan


def document(value: object) -> str:
    """Returns a line of JSON. `value` may be any value of `json.dumps`."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        if isnan(value):
            return "NaN"
        return {inf: "Infinity", -inf: "-Infinity"}.get(value, value)
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
