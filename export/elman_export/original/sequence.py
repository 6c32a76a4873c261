"""The kind of original that is a torch module of whole sequences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from elman_export.candidate import Candidate
from elman_export.errors import UnsupportedGraph, UnsupportedModule, explained
from elman_export.interface import Output
from elman_export.options import ModuleArguments, Options
from elman_export.original import graph, precision, recurrence, torchmodule
from elman_export.original.calling import CallFailed
from elman_export.original.explain import changing, fixed_length, mixing, sizes
from elman_export.original.observation import Observation, observe
from elman_export.original.steps import ElementStep, SequenceStep
from elman_export.original.subject import Subject
from elman_export.original.torchmodule import TorchModule
from elman_export.proof.proof import Sequences
from elman_export.proof.sample import random_contexts, random_elements
from elman_export.proof.stepmodel import Arrays, RuntimeFailed
from elman_export.surgery import graphs, heads
from elman_export.surgery.initial import split
from elman_server.model.spec import ContextSpec, InputSpec, ModelSpec, StateSpec

_LENGTHS = "lengths"


def applies(arguments: ModuleArguments) -> bool:
    """Whether a module with these arguments takes whole sequences."""
    return not arguments.states


def original(module: nn.Module, arguments: ModuleArguments, options: Options) -> TorchModule:
    """Returns a module in evaluation mode as an original, with the step model."""
    input, contexts = arguments.input, arguments.contexts
    subject = _subject(module, options.outputs, arguments.batch_first)
    observation = _observe(subject, input, contexts)
    subject = replace(subject, last_only=observation.last_only)
    spec = _spec(subject, observation, arguments, options)

    def explain() -> str:
        batch, time = sizes(module)

        def run() -> Mapping[str, Tensor]:
            return _run(subject, input, contexts, batch, time)

        return changing(run) or mixing(module, run, batch, time)

    with explained(explain):
        model, spec = _step(subject, observation, spec)
    first = {name: graph.first(name) for name in spec.initialized}
    model, spec, initial = split(model, spec, first)
    return TorchModule(
        input=input,
        contexts=contexts,
        candidate=Candidate(
            model=graph.finish(model),
            spec=spec,
            initial=None if initial is None else graph.finish(initial),
        ),
        dtype=precision.of(module),
        outputs_of=lambda each: subject.answer(each.elements, list(each.contexts.values())),
        outputs_of_twin=_twin(subject),
        reason=explain,
    )


def _subject(module: nn.Module, outputs: Sequence[Output], batch_first: bool | None) -> Subject:
    layers = recurrence.find(module)
    return Subject(
        module=module,
        layers=layers,
        outputs=tuple(outputs),
        batch_first=layers[0].module.batch_first if batch_first is None else batch_first,
    )


def _observe(subject: Subject, input: InputSpec, contexts: Sequence[ContextSpec]) -> Observation:
    try:
        return observe(subject, input, contexts)
    except CallFailed as error:

        def runs(time: int) -> bool:
            try:
                _run(subject, input, contexts, 2, time)
            except CallFailed:
                return False
            return True

        length = fixed_length(error.culprit, runs)
        if length is not None:
            raise UnsupportedModule(
                f"{error.name!r} ({recurrence.kind(error.culprit)}) takes sequences of {length} "
                "elements only: its weights are for steps, so it mixes them or tells them apart by "
                "their place, and a stream has no fixed length"
            ) from error
        if isinstance(error.__cause__, TypeError) and "required positional" in str(error):
            raise UnsupportedModule(
                f"{error}; a module that takes its state as an argument, as forward(x, h), is "
                "exported one element at a time, with states=[elman_export.state('h', SIZE)]"
            ) from error
        raise


def _run(
    subject: Subject, input: InputSpec, contexts: Sequence[ContextSpec], batch: int, time: int
) -> Mapping[str, Tensor]:
    rng = np.random.default_rng(0)
    elements = random_elements(input, batch, time, rng)
    return subject.run(elements, list(random_contexts(contexts, batch, rng).values())).outputs


def _step(
    subject: Subject, observation: Observation, spec: ModelSpec
) -> tuple[onnx.ModelProto, ModelSpec]:
    """Returns the graph and the spec of a step. The step takes many elements. It takes a single
    element if the module answers only for the last element, and the head can't be changed to answer
    for each."""
    step = SequenceStep(subject, observation.layers, observation.computed)
    model = graph.build(step, spec, subject.module, subject.last_only)
    if not subject.last_only:
        return model, spec
    editable = graphs.read(model)
    try:
        heads.answer_at_every_step(
            editable,
            element=spec.input.name,
            outputs=subject.last_only,
            kept=[*(state.output for state in spec.states), *map(graph.first, spec.initialized)],
            feed=lambda batch, time: _feed(spec, batch, time),
            batch_axis=0,
            time_axis=1,
        )
    except (UnsupportedGraph, heads.HeadError, RuntimeFailed):
        # RuntimeFailed: with steps as rows, a head with a context gets too many rows.
        spec = replace(spec, time_axis=False, lengths=None)
        step = ElementStep(subject, observation.layers, observation.computed)
        return graph.build(step, spec, subject.module), spec
    model = graphs.write(editable)
    graph.declare(model, spec)
    return model, spec


def _feed(spec: ModelSpec, batch: int, time: int) -> Arrays:
    rng = np.random.default_rng(batch * time)
    states = {
        state.input: np.repeat(
            np.expand_dims(state.initial_value(), state.batch_axis), batch, state.batch_axis
        )
        for state in spec.states
    }
    return {
        spec.input.name: random_elements(spec.input, batch, time, rng),
        _LENGTHS: np.full(batch, time, np.int32),
        **states,
        **random_contexts(spec.contexts, batch, rng),
    }


def _twin(subject: Subject) -> Callable[[Sequences], Arrays] | None:
    """Returns a function that computes the module's outputs in float32; `None` for a float32
    module."""
    if precision.of(subject.module) is torch.float32:
        return None
    module = precision.twin(subject.module)
    twin = replace(subject, module=module, layers=recurrence.find(module))

    def answer(each: Sequences) -> Arrays:
        with precision.float32(subject.module):
            return twin.answer(each.elements, list(each.contexts.values()))

    return answer


def _spec(
    subject: Subject, observation: Observation, arguments: ModuleArguments, options: Options
) -> ModelSpec:
    states = []
    for layers in observation.layers:
        for name, size in layers.states.items():
            initial = observation.initial.get(name)
            states.append(
                StateSpec(
                    name=name,
                    input=name,
                    output=f"{name}.next",
                    dtype="float32",
                    shape=(1, size),
                    batch_axis=1,
                    initial=None if initial is None else tuple(initial.tolist()),
                )
            )
    return torchmodule.spec(
        description=options.description,
        input=arguments.input,
        outputs=torchmodule.output_specs(
            subject.outputs, observation.outputs, precision.of(subject.module)
        ),
        states=tuple(states),
        time_axis=True,
        lengths=_LENGTHS,
        contexts=tuple(replace(each, input=each.name) for each in arguments.contexts),
        initialized=tuple(name for layers in observation.computed for name in layers.states),
    )
