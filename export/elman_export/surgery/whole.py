"""From a whole-sequence ONNX graph to a step model: the order in which it is done."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper

from elman_export import onnxfile
from elman_export.errors import ExportError, ProofFailed, UnsupportedGraph
from elman_export.interface import Output, values
from elman_export.keep import Report, keep
from elman_export.proof import TOLERANCE, Proof, Sequences, prove
from elman_export.sample import random_elements
from elman_export.stepmodel import Arrays, StepModel
from elman_export.surgery import heads, inline, layout, lift, loosen, normal, recurrent, trace
from elman_export.surgery.editor import Editor, attributes, describe, inputs
from elman_export.surgery.held import hold_gates
from elman_export.surgery.layout import Layout
from elman_export.surgery.lift import Lifted
from elman_export.surgery.original import Original, Seen
from elman_server.spec import DType, InputKind, InputSpec, ModelSpec, OutputSpec, StateSpec

_SAMPLES = ((7, 20), (2, 1), (1, 7))
"""(batch, time) of the random sequences that a proof runs on."""
_LENGTHS = "lengths"
_LAYOUT_ONLY = ("Identity", "Concat", "Squeeze", "Unsqueeze", "Transpose", "Reshape")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lengths:
    """An input of the original that takes the rows' numbers of elements."""

    name: str
    dtype: str


def export_graph(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    input: InputSpec | None = None,
    outputs: Sequence[Output] = (),
    constants: Mapping[str, Any] | None = None,
    description: str = "",
    examples: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Report:
    """Writes the whole-sequence graph of the ONNX file `path` as a step model to `output`.

    The graph has RNN, LSTM or GRU operators and no states among its inputs. Their states become
    inputs and outputs; sizes that its exporter wrote into it become dynamic; a head that reads the
    last step answers at every step. `input` says what the elements are where the graph does not
    (names of characters, a shape that is left open); `outputs` which outputs are wanted and what
    they mean; without it, all that come for each element are `values`. `constants` are inputs that
    are the same always, by name. `examples`, `[batch, time, *shape]`, are compared beside seeded
    random sequences.

    Raises `UnsupportedGraph` with the node that can't be part of a step, `ProofFailed` for a step
    model that is not the same network, and `ExportError` for a file that can't be read or names
    that don't fit. Nothing is written then.
    """
    subject = _Subject.of(onnxfile.load(Path(path)), input, outputs, constants or {})
    sequences = _sequences(subject, examples, seed)
    failure: ExportError | None = None
    for build in (_chunked, _single):
        try:
            model, spec = build(subject, description)
            proof = _prove(subject, model, spec, sequences, seed=seed, tolerance=tolerance)
        except (heads.HeadError, ProofFailed) as error:
            failure = failure or error
        else:
            return keep(model, spec, proof, output)
    assert failure is not None
    raise failure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A graph that is exported, and what was found out about it."""

    model: onnx.ModelProto
    """Its inputs are the sequence and, perhaps, the lengths; its number of steps is open."""
    original: Original
    input: InputSpec
    layout: Layout
    outputs: Mapping[str, Seen]
    """Those that are wanted, in order."""
    meanings: Mapping[str, Output]
    lengths: _Lengths | None

    @staticmethod
    def of(
        model: onnx.ModelProto,
        input: InputSpec | None,
        outputs: Sequence[Output],
        constants: Mapping[str, Any],
    ) -> "_Subject":
        editor = Editor(model)
        editor.lift_constants()
        _fix(editor, constants)
        if not recurrent.find(model.graph):
            raise UnsupportedGraph(_no_recurrence(model))
        lengths = _lengths_input(model)
        value = _element(model, lengths)
        input = element_spec(model, value, input)

        def feed(x: np.ndarray) -> Arrays:
            given = {value.name: x}
            if lengths is not None:
                axes = 2 if x.ndim - len(input.shape) == 2 else 1
                given[lengths.name] = _full_lengths(x.shape[:axes], lengths)
            return given

        found = layout.find(model, value, input, feed)
        if found.fixed_time is not None:
            _loosen_time(model, value, input, found)
        sizes = _sizes(found)
        original = Original(
            model,
            input=input,
            layout=found,
            lengths=None if lengths is None else lengths.name,
            lengths_dtype="int32" if lengths is None else lengths.dtype,
        )
        zeros = [np.zeros((batch, time, *input.shape), input.dtype) for batch, time in sizes]
        inline.inline(editor, [original.feed(found.arrange(x)) for x in zeros])
        seen = _wanted(model, original.look(sizes), outputs)
        return _Subject(
            model=model,
            original=original,
            input=input,
            layout=found,
            outputs=seen,
            meanings={each.name: each for each in outputs},
            lengths=lengths,
        )

    @property
    def sizes(self) -> trace.Sizes:
        return _sizes(self.layout)


def _sizes(found: Layout) -> trace.Sizes:
    if found.fixed_batch is None:
        return trace.SIZES
    one, longer, other = ((found.fixed_batch, time) for _, time in trace.ONE_ROW)
    return one, longer, other


def _fix(editor: Editor, constants: Mapping[str, Any]) -> None:
    """Makes constants of inputs, in the types that they are declared with."""
    by_name = {value.name: value for value in editor.graph.input}
    initialized = {each.name for each in editor.graph.initializer}
    for name, value in constants.items():
        if name not in by_name:
            raise ExportError(
                f"constant {name!r} is no input of the graph; its inputs are "
                f"{', '.join(map(repr, by_name))}"
            )
        kind = by_name[name].type.tensor_type.elem_type
        editor.fix(name, np.asarray(value, helper.tensor_dtype_to_np_dtype(kind)))
    for name in by_name:
        if name in initialized and name not in constants:
            # Old graphs list their weights among their inputs.
            editor.drop_inputs({name})


def _no_recurrence(model: onnx.ModelProto) -> str:
    weights = {each.name for each in model.graph.initializer}
    users: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm", "MatMulInteger"):
            for name in set(node.input) & weights:
                users[name] = users.get(name, 0) + 1
    name, times = max(users.items(), key=lambda each: each[1], default=("", 0))
    if times > 2:
        return (
            f"no RNN, LSTM or GRU operator, and weight {name!r} is used {times} times: a loop over "
            "time that was unrolled into the graph; export the layer as an operator, or one step "
            "of it with its state as input and output"
        )
    loops = [node for node in model.graph.node if node.op_type in ("Loop", "Scan")]
    if loops:
        return (
            f"{describe(loops[0])} loops over the sequence by itself: what it hands from turn to "
            "turn can't be lifted out of it; export the layer as an RNN, GRU or LSTM operator"
        )
    return "no RNN, LSTM or GRU operator, and no inputs and outputs that could be its state"


def _lengths_input(model: onnx.ModelProto) -> _Lengths | None:
    """The graph's input that says how long each row is, if recurrent operators read one."""
    makers = {name: node for node in model.graph.node for name in node.output}
    by_name = {value.name: value for value in model.graph.input}
    for operator in recurrent.find(model.graph):
        name = operator.lengths
        while name in makers and makers[name].op_type in ("Cast", "Identity"):
            name = makers[name].input[0]
        if name in by_name:
            kind = by_name[name].type.tensor_type.elem_type
            return _Lengths(name=name, dtype=str(helper.tensor_dtype_to_np_dtype(kind)))
    return None


def _full_lengths(axes: tuple[int, ...], lengths: _Lengths) -> np.ndarray:
    return np.ones(1 if len(axes) < 2 else axes[0], lengths.dtype)


def _element(model: onnx.ModelProto, lengths: _Lengths | None) -> onnx.ValueInfoProto:
    taken = {lengths.name} if lengths is not None else set()
    left = [value for value in model.graph.input if value.name not in taken]
    if len(left) == 1:
        return left[0]
    raise UnsupportedGraph(
        f"the graph has {len(left)} inputs ({', '.join(repr(value.name) for value in left)}), and "
        "one of them takes the sequence; say of the others that they are constants"
        if left
        else "the graph has no input"
    )


def element_spec(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, said: InputSpec | None
) -> InputSpec:
    """What an element is: as said, under the graph's own name, or as the graph shows it."""
    kind = str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    if said is not None:
        return replace(said, name=value.name, dtype=cast(DType, kind))
    declared = layout.dims(value)
    if kind in ("int32", "int64"):
        size = _table_size(model, value.name)
        if size is None:
            raise ExportError(
                f"input {value.name!r} takes ids, and the graph does not show how many there are; "
                "say it: tokens:SIZE"
            )
        return InputSpec(name=value.name, kind=InputKind.TOKENS, dtype=cast(DType, kind), size=size)
    shape = declared[2:] if len(declared) > 2 else declared[1:]
    if any(size is None for size in shape) or len(declared) < 2:
        raise ExportError(
            f"input {value.name!r} is declared with axes that are left open "
            f"({['?' if size is None else size for size in declared]}); say the shape of an "
            "element: features:SIZE"
        )
    return InputSpec(
        name=value.name,
        kind=InputKind.FEATURES,
        dtype=cast(DType, kind),
        shape=tuple(size for size in shape if size is not None),
    )


def _table_size(model: onnx.ModelProto, name: str) -> int | None:
    """How many rows the table has that an input picks from."""
    tables = {each.name: each for each in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    aliases = {name}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity", "Transpose") and node.input[0] in aliases:
            aliases.update(node.output)
        if node.op_type == "Gather" and inputs(node, 1) in aliases:
            table = node.input[0]
            while table not in tables and table in makers and makers[table].input:
                table = makers[table].input[0]
            if table in tables:
                return int(tables[table].dims[attributes(node).get("axis", 0)])
    return None


def _wanted(
    model: onnx.ModelProto, seen: Sequence[Seen], outputs: Sequence[Output]
) -> Mapping[str, Seen]:
    by_name = {each.name: each for each in seen}
    if outputs:
        for each in outputs:
            if each.name not in by_name:
                raise ExportError(
                    f"output {each.name!r} is none of the graph's; those are "
                    f"{', '.join(map(repr, by_name))}"
                )
        return {each.name: by_name[each.name] for each in outputs}
    kept = {each.name: each for each in seen if not _is_final_state(model, each.name)}
    if not kept:
        raise UnsupportedGraph("the graph gives nothing but its layers' final states")
    return kept


def _is_final_state(model: onnx.ModelProto, name: str) -> bool:
    """Whether an output is nothing but final states of recurrent operators, laid out somehow."""
    makers = {output: node for node in model.graph.node for output in node.output}
    constants = {each.name for each in model.graph.initializer}
    states = {
        operator.output(state.made)
        for operator in recurrent.find(model.graph)
        for state in operator.states
    }
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each in states:
            continue
        maker = makers.get(each)
        if maker is None or maker.op_type not in _LAYOUT_ONLY:
            return False
        waiting.extend(
            given
            for given in (maker.input if maker.op_type == "Concat" else maker.input[:1])
            if given not in constants
        )
    return True


def _loosen_time(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, input: InputSpec, found: Layout
) -> None:
    """Opens the number of steps, in place, and checks that nothing changed for those there were."""
    assert found.fixed_time is not None
    rows, steps = found.fixed_batch or 2, found.fixed_time
    rng = np.random.default_rng(0)
    x = {
        time: {value.name: found.arrange(random_elements(input, rows, time, rng))}
        for time in (steps, steps + 3)
    }
    before = trace.run(model, x[steps], [each.name for each in model.graph.output])
    editor = Editor(model)
    dim = value.type.tensor_type.shape.dim[found.time]
    dim.Clear()
    dim.dim_param = "time"
    for each in model.graph.output:
        each.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    loosen.loosen(
        editor,
        element=value.name,
        axes=(found.batch, found.time),
        fixed=loosen.Sizes(rows, steps),
        other=loosen.Sizes(rows, steps + 3),
        feed=x[steps],
        other_feed=x[steps + 3],
    )
    try:
        after = trace.run(model, x[steps], list(before))
        trace.run(model, x[steps + 3], list(before))
    except Exception as error:  # onnxruntime raises classes of many modules
        raise UnsupportedGraph(
            f"the graph was exported for {steps} steps, and does not run for {steps + 3}: "
            f"{' '.join(str(error).split())}"
        ) from error
    for name, was in before.items():
        if not np.array_equal(was, after[name], equal_nan=True):
            raise UnsupportedGraph(
                f"the graph was exported for {steps} steps; made to run for others, its output "
                f"{name!r} changes"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Working:
    """A copy of the graph with its states lifted."""

    editor: Editor
    states: Sequence[Lifted]
    layout: Layout
    feed: Callable[[int, int], Arrays]
    """Zeros for (batch, time), states and lengths included."""


def _lifted(subject: _Subject) -> _Working:
    model = onnx.ModelProto()
    model.CopyFrom(subject.model)
    editor = Editor(model)
    for each in [*model.graph.output]:
        if each.name not in subject.outputs:
            model.graph.output.remove(each)
        else:
            each.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    found, input = subject.layout, subject.input
    rng = np.random.default_rng(0)
    rows = found.fixed_batch or 3
    feeds = [
        subject.original.feed(found.arrange(random_elements(input, rows, time, rng)))
        for time in (4, 1)
    ]
    lengths = _take_lengths(editor, subject.lengths)
    states = lift.lift(editor, lengths, feeds)
    hold_gates(editor)
    editor.sort()

    def feed(batch: int, time: int) -> Arrays:
        x = found.arrange(np.zeros((batch, time, *input.shape), input.dtype))
        return {
            input.name: x,
            lengths: np.full(batch, time, np.int32),
            **{each.input: np.zeros((1, batch, each.hidden_size), "f") for each in states},
        }

    if found.fixed_batch is not None and found.batch is not None:
        found = _loosen_batch(editor, subject, feed) or found
    return _Working(editor=editor, states=states, layout=found, feed=feed)


def _take_lengths(editor: Editor, lengths: _Lengths | None) -> str:
    """A new input of lengths, int32; an old one is made from it."""
    name = _LENGTHS
    if lengths is not None:
        old = editor.fresh(f"{lengths.name}/inner")
        editor.replace(lengths.name, old)
        editor.drop_inputs({lengths.name})
        name = lengths.name
    elif any(value.name == _LENGTHS for value in editor.graph.input):
        name = editor.fresh(_LENGTHS)
    editor.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT32, ["batch"]))
    if lengths is not None:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(lengths.dtype))
        editor.node("Cast", [name], old, to=kind)
    return name


def _loosen_batch(
    editor: Editor, subject: _Subject, feed: Callable[[int, int], Arrays]
) -> Layout | None:
    """Opens the batch size of a lifted graph, in place; None where it can't be."""
    found = subject.layout
    assert found.fixed_batch is not None and found.batch is not None
    kept = onnx.ModelProto()
    kept.CopyFrom(editor.model)
    value = next(each for each in editor.graph.input if each.name == subject.input.name)
    dim = value.type.tensor_type.shape.dim[found.batch]
    dim.Clear()
    dim.dim_param = "batch"
    rows, steps = found.fixed_batch, 7
    other = (rows + 2, steps)
    try:
        loosen.loosen(
            editor,
            element=subject.input.name,
            axes=(found.batch, found.time),
            fixed=loosen.Sizes(rows, steps),
            other=loosen.Sizes(*other),
            feed=feed(rows, steps),
            other_feed=feed(*other),
        )
        trace.run(editor.model, feed(*other), list(subject.outputs))
    except Exception:  # the runtime's errors, or a size that can't be told: it stays as it was
        editor.model.CopyFrom(kept)
        return None
    return replace(found, fixed_batch=None)


def _chunked(subject: _Subject, description: str) -> tuple[onnx.ModelProto, ModelSpec]:
    """A step of any number of elements for each row."""
    work = _lifted(subject)
    editor, found = work.editor, work.layout
    sizes = _sizes(found)
    if found.batch is not None and found.fixed_batch is None:
        heads.answer_at_every_step(
            editor.model,
            element=subject.input.name,
            outputs=list(subject.outputs),
            kept=[each.output for each in work.states],
            feed=work.feed,
            batch_axis=found.batch,
            time_axis=found.time,
        )
        editor = Editor(editor.model)
    elif any(seen.time is None for seen in subject.outputs.values()):
        raise heads.HeadError("an output is of the last step, and there is no axis for the batch")
    else:
        heads.check(editor.model, work.feed, sizes)
    axes: dict[str, tuple[int | None, int]] = {}
    for name, seen in subject.outputs.items():
        axes[name] = (0, 1) if seen.time is None else (seen.batch, seen.time)
    spec = _spec(subject, work, description, time_axis=True)
    normal.chunks(editor, subject.input, spec.outputs, found, axes)
    return _finished(editor, spec), spec


def _single(subject: _Subject, description: str) -> tuple[onnx.ModelProto, ModelSpec]:
    """A step of one element for each row."""
    work = _lifted(subject)
    editor, found = work.editor, work.layout
    heads.check(editor.model, work.feed, _sizes(found))
    spec = _spec(subject, work, description, time_axis=False)
    lengths = subject.lengths.name if subject.lengths is not None else _LENGTHS
    normal.single(editor, subject.input, spec.outputs, found, lengths)
    return _finished(editor, spec), spec


def _spec(subject: _Subject, work: _Working, description: str, *, time_axis: bool) -> ModelSpec:
    outputs = []
    for name, seen in subject.outputs.items():
        meaning = subject.meanings.get(name) or values(name)
        outputs.append(
            OutputSpec(
                name=name,
                kind=meaning.kind,
                dtype=cast(DType, seen.dtype),
                shape=seen.shape,
                labels=meaning.labels,
            )
        )
    batched = work.layout.batch is not None and work.layout.fixed_batch is None
    lengths = next(
        each.name
        for each in work.editor.graph.input
        if each.name in (_LENGTHS, subject.lengths.name if subject.lengths else _LENGTHS)
    )
    return ModelSpec(
        description=description,
        input=subject.input,
        outputs=tuple(outputs),
        states=tuple(
            StateSpec(
                name=each.name,
                input=each.input,
                output=each.output,
                dtype="float32",
                shape=(1, each.hidden_size),
                batch_axis=1,
                initial=None if each.initial is None else tuple(each.initial.ravel().tolist()),
            )
            for each in work.states
        ),
        time_axis=time_axis,
        lengths=lengths if time_axis else None,
        batched=batched,
    )


def _finished(editor: Editor, spec: ModelSpec) -> onnx.ModelProto:
    editor.prune()
    normal.strip(editor.model)
    return editor.model


def _sequences(subject: _Subject, examples: np.ndarray | None, seed: int) -> list[Sequences]:
    """What the proof runs on: random sequences and the caller's examples."""
    rng = np.random.default_rng(seed)
    found = [
        Sequences(elements=random_elements(subject.input, batch, time, rng))
        for batch, time in _SAMPLES
    ]
    shape = subject.input.shape
    if examples is not None:
        if examples.ndim != 2 + len(shape) or examples.shape[2:] != shape:
            raise ExportError(
                f"examples have shape {list(examples.shape)}; expected is "
                f"{['batch', 'time', *shape]}"
            )
        found.append(Sequences(elements=examples.astype(subject.input.dtype), source="examples"))
    return found


def _prove(
    subject: _Subject,
    model: onnx.ModelProto,
    spec: ModelSpec,
    sequences: Sequence[Sequences],
    *,
    seed: int,
    tolerance: float,
) -> Proof:
    return prove(
        lambda each: subject.original.answer(each, subject.outputs),
        StepModel(model.SerializeToString(), spec),
        sequences,
        seed=seed,
        tolerance=tolerance,
        exact=False,
        original="graph",
    )
