"""Pairing of state inputs with outputs that hold the next values.

A pair is certain if the names differ only in words like *in*, *out*, *next* and *prev*, or if no
other pair fits. This module does not run the graph.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from elman_export.errors import ExportError
from elman_export.original.adoption.port import Port, compatible

_WORDS = frozenset(
    [
        "in",
        "out",
        "input",
        "inputs",
        "output",
        "outputs",
        "next",
        "new",
        "prev",
        "previous",
        "past",
        "present",
        "old",
        "last",
        "cur",
        "current",
        "init",
        "initial",
        "final",
        "updated",
        "n",
        "t",
        "tm1",
        "0",
        "ret",
        "return",
        "returned",
    ]
)
"""Words that differ between the names of a state's input and output."""


def find(
    inputs: Sequence[Port], outputs: Sequence[Port], declared: Mapping[str, str]
) -> dict[str, str]:
    """Returns the output with the next value for each state input.

    `inputs` are possible states or elements; one must remain for the elements. The `declared` pairs
    are kept. Raises `ExportError` with the possible options if pairs are uncertain.
    """
    _check_declared(inputs, outputs, declared)
    left = [each for each in inputs if each.name not in declared]
    free = [each for each in outputs if each.name not in declared.values()]
    if declared and len(left) == 1:
        return dict(declared)
    found = {**declared, **_by_name(left, free)}
    left = [each for each in left if each.name not in found]
    if len(left) == 1 and found:
        return found
    if not left:
        raise ExportError(
            "by their names all inputs could be states, and none takes the elements: say which "
            f"are states with {_options(list(found.items()))}"
        )
    candidates = _candidates(left, [each for each in free if each.name not in found.values()])
    if not found and len(candidates) == 1 and len(left) == 2 and len(free) > 1:
        return dict(candidates)
    if not found and (not candidates or len(inputs) == 1):
        raise ExportError(
            f"the graph has no state: no output can be the next value of {_names(inputs)}"
        )
    raise ExportError(_uncertain(left, found, candidates))


def _uncertain(
    left: Sequence[Port], found: Mapping[str, str], candidates: Sequence[tuple[str, str]]
) -> str:
    parts = [f"one of the inputs {_names(left)} takes the elements; say what the others are"]
    if candidates:
        parts.append(f"states, by type and shape: {_options(candidates)}")
    scalars = [each.name for each in left if each.dims == ()] or ["NAME"]
    parts.append(f"the same always: {' '.join(f'--constant {name}=VALUE' for name in scalars)}")
    parts.append("given once for a session: --context NAME")
    if found:
        parts.append(f"states already, by their names: {_options([*found.items()])}")
    return "; ".join(parts)


def _names(ports: Sequence[Port]) -> str:
    return ", ".join(map(str, ports))


def may_pair(inputs: Sequence[Port], outputs: Sequence[Port]) -> bool:
    """Whether any of the outputs can be the next value of any of the inputs."""
    return bool(_candidates(inputs, outputs))


def _check_declared(
    inputs: Sequence[Port], outputs: Sequence[Port], declared: Mapping[str, str]
) -> None:
    by_input = {each.name: each for each in inputs}
    by_output = {each.name: each for each in outputs}
    for name, target in declared.items():
        for side, known, port_name in (("input", by_input, name), ("output", by_output, target)):
            if port_name not in known:
                raise ExportError(
                    f"state {name}:{target}: {port_name!r} is no {side} of the graph; it has "
                    f"{', '.join(map(repr, known))}"
                )
        if not compatible(by_input[name], by_output[target]):
            one, two = by_input[name], by_output[target]
            raise ExportError(
                f"state {name}:{target}: {one} of {one.dtype} can't take {two} of {two.dtype}"
            )
    if len(set(declared.values())) < len(declared):
        raise ExportError(
            "an output is the next value of two states: " + _options([*declared.items()])
        )
    if len(declared) == len(inputs):
        raise ExportError("all inputs are states; one must take the elements")


def _by_name(inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in (_plain, _bare):
        left = [each for each in inputs if each.name not in found]
        free = [each for each in outputs if each.name not in found.values()]
        for port in left:
            same = _same(port, free, key)
            if len(same) == 1 and len(_same(same[0], left, key)) == 1:
                found[port.name] = same[0].name
    return found


def _same(port: Port, others: Sequence[Port], key: Callable[[str], str]) -> list[Port]:
    expected = key(port.name)
    return [
        each
        for each in others
        if expected and key(each.name) == expected and compatible(port, each)
    ]


def _plain(name: str) -> str:
    """The name without punctuation and without `_WORDS`."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    tokens = [token for token in re.split(r"[^a-z0-9]+", split) if token]
    return "_".join(token for token in tokens if token not in _WORDS)


def _bare(name: str) -> str:
    """The plain name without a final n, 0 or 1 after a letter: h0, h1 and hn become h."""
    return re.sub(r"(?<=[a-z])[n01]$", "", _plain(name))


def _candidates(inputs: Sequence[Port], outputs: Sequence[Port]) -> list[tuple[str, str]]:
    return [(one.name, two.name) for one in inputs for two in outputs if compatible(one, two)]


def _options(pairs: Sequence[tuple[str, str]]) -> str:
    return " ".join(f"--state {name}:{target}" for name, target in pairs)
