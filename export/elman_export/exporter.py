"""`export`: from a trained module to a step model's file, proved before it is kept."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from elman_export.errors import ExportError, fitting
from elman_export.finish import finish
from elman_export.interface import Output, States
from elman_export.keep import Report
from elman_export.original import cells, sequence
from elman_export.proof.trials import trials
from elman_server.model.spec import ContextSpec, InputSpec, StateSpec


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
    """Writes `module` as a step model to `path`, after proving that it is the same network.

    `module(x)` takes whole sequences, `[batch, time, *shape]`, or `[time, batch, *shape]` where its
    layers are not `batch_first`; it returns a tensor, a sequence or a dict of tensors with those
    two axes first. An output that is `[batch, *shape]` is taken for that of the last element; the
    step model gives it for every element. The module's state lives in `nn.RNN`, `nn.LSTM` and
    `nn.GRU` submodules, each run once per sequence; everything else treats each element by itself.
    Final states that it returns beside its outputs are left out.

    With `states`, the module takes one element of each row and keeps no state itself:
    `module(x, *states)`, with `x [batch, *shape]`, returns outputs and then the new states. States
    that it takes as a tuple are named in a tuple: `states=[h]` for `forward(x, h)`, `[(h, c)]` for
    `forward(x, (h, c))`, `[(h0, c0), (h1, c1)]` for `forward(x, first, second)`, where each is made
    by `elman_export.state`. They come back in the same order behind the outputs, nested or not, or
    by name in the dict of the outputs. Such a module computes its state however it likes.

    The module is run in evaluation mode, and left in the mode that it was in. It may be in float64,
    float16 or bfloat16; its step model computes in float32.

    `input` and `outputs` say what the tensors mean (`elman_export.text`, `elman_export.logits`,
    ...); a dict's outputs are found by name, others by order. `contexts` are what a session is
    given once: the module is called with them behind all else, each `[batch, *shape]`. Where a
    module of whole sequences makes initial states of them, that part of it becomes the
    initial-state network, which runs when a session is opened. `batch_first` is taken from the
    layers unless given. `examples`, `[batch, time, *shape]`, an array or what numpy makes one of,
    are compared beside seeded random sequences. `tolerance` bounds the difference from the module,
    by default as its type allows (see `elman_export.original.precision`); the step model's own
    answers must be equal however a sequence is cut up. `quantized`: with 8-bit weights
    (`elman_export.quantization`).

    Raises `UnsupportedModule` for a module that can't become a step model, `ProofFailed` for a step
    model that is not the same network, and `ExportError` for names, labels or examples that don't
    fit. Nothing is written then, and a file that was there before stays.
    """
    _check_kinds(outputs=outputs, states=states, contexts=contexts)
    if states and batch_first is not None:
        raise ExportError(
            "batch_first is of whole sequences; with states, a module takes one element"
        )
    sequences = trials(input, contexts, examples=examples, seed=seed)
    with _evaluation(module):
        with fitting():
            draft = (
                cells.make(
                    module,
                    input=input,
                    outputs=outputs,
                    states=states,
                    contexts=contexts,
                    description=description,
                )
                if states
                else sequence.make(
                    module,
                    input=input,
                    outputs=outputs,
                    contexts=contexts,
                    description=description,
                    batch_first=batch_first,
                )
            )
        cases = draft.cases(sequences)
        proof = draft.prove(cases, seed=seed, tolerance=tolerance)
        return finish(
            draft.model,
            draft.spec,
            proof,
            path,
            cases=cases,
            original="module",
            initial=draft.initial,
            quantized=quantized,
            seed=seed,
        )


_KINDS: Mapping[str, tuple[type, str]] = {
    "outputs": (Output, "[elman_export.values('y')]"),
    "states": (StateSpec, "[elman_export.state('h', SIZE)]"),
    "contexts": (ContextSpec, "[elman_export.context('image', SIZE)]"),
}


def _check_kinds(**given: object) -> None:
    """Raises `ExportError` for what is no list of its kind; states may be nested."""
    for name, value in given.items():
        kind, example = _KINDS[name]
        if not isinstance(value, list | tuple):
            raise ExportError(
                f"{name} is of type {type(value).__name__}; expected is a list, as {name}={example}"
            )
        for each in value:
            if name == "states" and isinstance(each, list | tuple):
                _check_kinds(states=each)
            elif not isinstance(each, kind):
                raise ExportError(
                    f"{name} has something of type {type(each).__name__}; expected is "
                    f"{name}={example}"
                )
            elif isinstance(each, Output) and not each.name:
                raise ExportError("an output has the name ''; expected is one of its own")


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """Puts every submodule in evaluation mode, and back in its own mode afterwards."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training
