"""`export`: writes a trained module as a step model, after a proof."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from elman_export import pipeline
from elman_export.errors import ExportError, fitting
from elman_export.interface import Output, States
from elman_export.options import ModuleArguments, Options
from elman_export.original import cells, sequence
from elman_export.proof.examples import fit
from elman_export.writer import Report
from elman_server.model.spec import ContextSpec, InputSpec, StateSpec

_KINDS = (cells, sequence)
"""The kinds of modules. The first that applies is the module's."""


def export(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    input: InputSpec,
    outputs: Sequence[Output],
    states: Sequence[States] = (),
    contexts: Sequence[ContextSpec] = (),
    description: str = "",
    batch_first: bool | None = None,
    examples: Any = None,
    tolerance: float | None = None,
    quantized: bool = False,
    seed: int = 0,
) -> Report:
    """Writes `module` as a step model to `path`, after a proof that both are the same network.

    `module(x)` takes whole sequences `[batch, time, *shape]`, or `[time, batch, *shape]` if the
    layers are not `batch_first`. It returns a tensor, a sequence of tensors or a dict of tensors,
    with the same two axes first. An output `[batch, *shape]` counts as the output for the last
    element; the step model returns this output for every element. The module's state lives in
    `nn.RNN`, `nn.LSTM` and `nn.GRU` submodules, each run once per sequence. Everything else must
    treat each element separately. Final states returned beside the outputs are left out.

    With `states`, the module takes one element per row and keeps no state: `module(x, *states)`,
    with `x [batch, *shape]`, returns the outputs and then the new states. `elman_export.state`
    makes each state. A tuple in `states` describes a tuple argument: `states=[h]` for
    `forward(x, h)`, `[(h, c)]` for `forward(x, (h, c))`, `[(h0, c0), (h1, c1)]` for
    `forward(x, first, second)`. The module returns the states behind the outputs in the same order,
    nested or not, or by name in the dict of the outputs. Such a module may compute the states in
    any way.

    The module runs in evaluation mode and then gets back the mode from before. It may be in
    float64, float16 or bfloat16; the step model computes in float32.

    `input` and `outputs` give the meaning of the tensors (`elman_export.text`,
    `elman_export.logits`, ...). The outputs in a dict are found by name, others by order.
    `contexts` are given once per session. The module takes contexts as the last arguments, each
    `[batch, *shape]`. If a module of whole sequences computes initial states from contexts, this
    part of the module becomes the initial-state network, which runs when a session is opened. By
    default, `batch_first` is taken from the layers. `examples` are an array
    `[batch, time, *shape]`, or convertible to an array by numpy. They are compared in addition to
    seeded random sequences. `tolerance` bounds the difference from the module; the default depends
    on the module's type (see `elman_export.original.precision`). The step model's own results must
    be equal for all cuts of a sequence. `quantized` writes 8-bit weights
    (`elman_export.quantization`).

    Raises `UnsupportedModule` for a module that can't become a step model, `ProofFailed` for a step
    model that is not the same network, and `ExportError` for invalid names, labels or examples. On
    an error, nothing is written, and an existing file stays.
    """
    return export_module(
        module,
        path,
        ModuleArguments(input=input, states=states, contexts=contexts, batch_first=batch_first),
        Options(
            outputs=outputs,
            description=description,
            examples=examples,
            tolerance=tolerance,
            quantized=quantized,
            seed=seed,
        ),
    )


def export_module(
    module: nn.Module, path: str | os.PathLike[str], arguments: ModuleArguments, options: Options
) -> Report:
    """Writes `module` as a step model to `path`; see `export`."""
    states = arguments.states
    _check_types(outputs=options.outputs, states=states, contexts=arguments.contexts)
    if states and arguments.batch_first is not None:
        raise ExportError(
            "batch_first is of whole sequences; with states, a module takes one element"
        )
    if options.examples is not None:
        fit(arguments.input, options.examples)  # before the trace, which takes seconds
    kind = next(kind for kind in _KINDS if kind.applies(arguments))
    with _evaluation(module):
        with fitting():
            original = kind.original(module, arguments, options)
        return pipeline.export(original, path, options)


_TYPES: Mapping[str, tuple[type, str]] = {
    "outputs": (Output, "[elman_export.values('y')]"),
    "states": (StateSpec, "[elman_export.state('h', SIZE)]"),
    "contexts": (ContextSpec, "[elman_export.context('image', SIZE)]"),
}


def _check_types(**arguments: object) -> None:
    """Raises `ExportError` for an argument that is not a list of the expected type. States may be
    nested."""
    for name, value in arguments.items():
        expected, example = _TYPES[name]
        if not isinstance(value, list | tuple):
            raise ExportError(
                f"{name} is of type {type(value).__name__}; expected is a list, as {name}={example}"
            )
        for each in value:
            if name == "states" and isinstance(each, list | tuple):
                _check_types(states=each)
            elif not isinstance(each, expected):
                raise ExportError(
                    f"{name} has something of type {type(each).__name__}; expected is "
                    f"{name}={example}"
                )
            elif isinstance(each, Output) and not each.name:
                raise ExportError("an output has the name ''; expected is one of its own")


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """Puts every submodule in evaluation mode, and restores each submodule's mode afterwards."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training
