"""The exported module seen from outside: outputs, and calls of the recurrent layers.

`Subject.run` runs a module on whole sequences. It returns the outputs by name and every call of the
recurrent layers. `elman_export.original.observation` checks the results.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from elman_export.errors import UnsupportedModule
from elman_export.interface import Output
from elman_export.original import precision
from elman_export.original.calling import array, call, described, tensor
from elman_export.original.recurrence import RecurrentLayers

_PARAMETERS = ("input", "hx")
"""Parameter names of torch's recurrent layers."""

_MAX_PREFIXES = 32
"""Maximum number of prefixes per sequence, for modules that answer only for the last element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a recurrent layer: arguments and results."""

    layers: RecurrentLayers
    input: Tensor
    initial: tuple[Tensor, ...]
    """Each `[layers, batch, hidden]`; empty if the layer starts from zeros by default."""
    final: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Results of a run."""

    calls: tuple[Call, ...]
    """In the order of execution."""
    outputs: Mapping[str, Tensor]
    """By output name, in the module's own layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A module in evaluation mode, with its recurrent layers and outputs."""

    module: nn.Module
    layers: tuple[RecurrentLayers, ...]
    outputs: tuple[Output, ...]
    batch_first: bool
    """Whether the module's layout is `[batch, time, ...]`; otherwise `[time, batch, ...]`."""
    last_only: tuple[str, ...] = ()
    """Outputs given only for the last element of a sequence: `[batch, *shape]`."""

    def arrange(self, tensor: Tensor) -> Tensor:
        """Converts `[batch, time, ...]` to the module's own layout, or back, by the same exchange
        of axes."""
        return tensor if self.batch_first else tensor.transpose(0, 1)

    def run(self, x: np.ndarray, contexts: Sequence[np.ndarray] = ()) -> Run:
        """Runs the module on `x [batch, time, *shape]` and contexts `[batch, *shape]`.

        Raises `UnsupportedModule` if the module fails on the arguments, does not return the named
        outputs, or gives a layer a value other than a tensor.
        """
        batch, time = x.shape[:2]
        dtype = precision.of(self.module)
        arguments = [self.arrange(tensor(x, dtype)), *(tensor(each, dtype) for each in contexts)]
        calls: list[Call] = []
        handles = [
            layers.module.register_forward_hook(_record(layers, calls), with_kwargs=True)
            for layers in self.layers
        ]
        try:
            returned = call(
                self.module,
                arguments,
                f"{described(arguments)} ({batch} sequences of {time} elements)",
            )
        finally:
            for handle in handles:
                handle.remove()
        found = select(returned, self.outputs, [state for call in calls for state in call.final])
        return Run(calls=tuple(calls), outputs=found)

    def answer(
        self, x: np.ndarray, contexts: Sequence[np.ndarray] = ()
    ) -> Mapping[str, np.ndarray]:
        """Returns the outputs for `x [batch, time, *shape]` by name, also as
        `[batch, time, *shape]`.

        For outputs in `last_only`, the module runs on all prefixes of `x`. For long sequences, the
        module runs on a selection of prefixes, and the remaining time steps are masked.
        """
        outputs = self.run(x, contexts).outputs
        found = {
            name: array(self.arrange(value))
            for name, value in outputs.items()
            if name not in self.last_only
        }
        if self.last_only:
            found |= self._answer_prefixes(x, contexts)
        return {name: found[name] for name in outputs}

    def _answer_prefixes(
        self, x: np.ndarray, contexts: Sequence[np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        time = x.shape[1]
        places = np.unique(np.linspace(0, time - 1, min(time, _MAX_PREFIXES)).astype(int))
        runs = [self.run(x[:, : place + 1], contexts).outputs for place in places]
        found = {}
        for name in self.last_only:
            known = np.stack([array(each[name]) for each in runs], axis=1)
            if len(places) == time:
                found[name] = known
                continue
            shape = (len(x), time, *known.shape[2:])
            masked = np.ma.array(np.zeros(shape, known.dtype), mask=np.ones(shape, bool))
            masked[:, places] = known
            found[name] = masked
        return found


def select(
    returned: Any, outputs: Sequence[Output], states: Sequence[Tensor]
) -> Mapping[str, Tensor]:
    """Returns the tensors in a module's return value, by output name.

    A dict is matched by name, a tensor or sequence by order. `states` are the layers' own final
    states. Final states in the return value (the common `return logits, hidden`) are left out.
    Raises `UnsupportedModule` unless the return value and `outputs` match one to one.
    """
    names = [output.name for output in outputs]
    if isinstance(returned, Mapping):
        found = {name: value for name, value in returned.items() if not _is_state(value, states)}
        if set(found) != set(names):
            raise UnsupportedModule(
                f"the module returns {_listed(found)}, and outputs name {_listed(names)}"
            )
    else:
        values = returned if isinstance(returned, tuple | list) else [returned]
        all_values, values = values, [value for value in values if not _is_state(value, states)]
        if all_values and not values:
            raise UnsupportedModule(
                "the module returns nothing but final states of its layers, [layers, batch, size]; "
                "for an answer to each element return the layer's output, or the last layer's "
                "state, h[-1]"
            )
        if len(values) != len(names):
            raise UnsupportedModule(
                f"the module returns {len(values)} outputs, and outputs name {_listed(names)}"
            )
        found = dict(zip(names, values, strict=True))
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise UnsupportedModule(f"output {name!r} is a {type(value).__name__}, not a tensor")
    return {name: found[name] for name in names}


def _record(layers: RecurrentLayers, calls: list[Call]) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        called = {**dict(zip(_PARAMETERS, args, strict=False)), **kwargs}
        input, initial = called["input"], called.get("hx")
        if not isinstance(input, Tensor):
            raise UnsupportedModule(
                f"{layers.name!r} is given a {type(input).__name__}; a step model takes the rows' "
                "lengths itself, so give the layer a plain tensor"
            )
        calls.append(
            Call(
                layers=layers,
                input=input,
                initial=() if initial is None else _states(initial),
                final=_states(result[1]),
            )
        )

    return hook


def _states(states: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (states,) if isinstance(states, Tensor) else tuple(states)


def _is_state(value: Any, states: Sequence[Tensor]) -> bool:
    """Whether `value` consists of final states of recurrent layers only."""
    if isinstance(value, tuple | list):
        return bool(value) and all(_is_state(part, states) for part in value)
    return any(value is state for state in states)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
