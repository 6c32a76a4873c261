"""JSON for scripts: one value on one line, valid whatever its numbers are.

JSON has no NaN and no infinity. They are strings here, `"NaN"`, `"Infinity"` and `"-Infinity"`, as
in the JSON of protobuf; `null` would count as 0 in many a script.
"""

import json
from collections.abc import Mapping
from math import inf, isnan


def document(value: object) -> str:
    """One line. `value` is made of what `json.dumps` takes."""
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
