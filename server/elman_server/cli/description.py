"""Tables about a step model: spec, serving properties and export proof."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from elman_server.model.modelfile import ModelFile
from elman_server.model.proof import KeptProof
from elman_server.model.spec import ContextSpec, InputSpec, OutputSpec, StateSpec

_SHOWN = 12
"""Displayed entries of a vocabulary or of labels; further entries are only counted."""


def tables(file: ModelFile, proof: KeptProof | None, served: Mapping[str, str]) -> Iterator[Table]:
    """Yields the tables. `served` are additional rows for the first table, by heading."""
    yield _spec(file, served)
    if proof is not None:
        yield _proof(proof)


def _spec(file: ModelFile, served: Mapping[str, str]) -> Table:
    spec = file.spec
    table = Table(show_header=False, title=str(file.path), title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if spec.description:
        table.add_row("description", spec.description)
    table.add_row("input", _input(spec.input))
    if spec.input.vocabulary:
        table.add_row("vocabulary", _summary(spec.input.vocabulary))
    for context in spec.contexts:
        table.add_row("context", _context(context))
    for output in spec.outputs:
        table.add_row("output", _output(output))
    for state in spec.states:
        table.add_row("state", _state(state, computed=state.name in spec.initialized))
    table.add_row("state bytes", f"{spec.state_bytes:,} a session")
    table.add_row("time axis", _time(time_axis=spec.time_axis, lengths=spec.lengths))
    for head, text in served.items():
        table.add_row(head, text)
    table.add_row("fingerprint", file.fingerprint)
    table.add_row("file size", f"{file.path.stat().st_size:,} bytes")
    return table


def _proof(proof: KeptProof) -> Table:
    caption = (
        f"What the export compared, {proof.elements:,} elements in each way: the largest "
        "difference from the original, and whether the bits were those of the first way."
    )
    table = Table(title="proof", title_justify="left", caption=caption, caption_justify="left")
    for column in ("output", "input", "given", "difference", "same bits"):
        table.add_column(column)
    for each in proof.comparisons:
        exact = "yes" if each.exact else "no"
        table.add_row(each.output, each.input, each.way, f"{each.maximum:.1e}", exact)
    return table


def _input(spec: InputSpec) -> str:
    text = f"{spec.name}: {spec.kind}, {spec.dtype}{list(spec.shape)}"
    if spec.size:
        text += f", {spec.size:,} ids"
    if spec.unknown is not None:
        text += f", unknown characters become {spec.vocabulary[spec.unknown]!r}"
    return text


def _context(spec: ContextSpec) -> str:
    use = "for the initial states" if spec.input is None else f"to {spec.input} at every step"
    return f"{spec.name}: {spec.dtype}{list(spec.shape)}, given once at open, {use}"


def _output(spec: OutputSpec) -> str:
    text = f"{spec.name}: {spec.kind}, {spec.dtype}{list(spec.shape)}"
    return f"{text}\nlabels {_summary(spec.labels)}" if spec.labels else text


def _state(spec: StateSpec, *, computed: bool) -> str:
    if computed:
        initial = "what the initial-state network gives"
    elif spec.initial is None:
        initial = "zeros"
    else:
        initial = _numbers(spec.initial)
    return (
        f"{spec.name}: {spec.output} -> {spec.input}, {spec.dtype}{list(spec.shape)}, "
        f"batch axis {spec.batch_axis}, starts as {initial}"
    )


def _numbers(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    if low == high:
        return f"all {low:g}"
    return f"{len(values):,} values in {low:g} to {high:g}"


def _summary(entries: Sequence[str]) -> str:
    shown = " ".join(map(repr, entries[:_SHOWN]))
    rest = len(entries) - _SHOWN
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def _time(*, time_axis: bool, lengths: str | None) -> str:
    if not time_axis:
        return "none: one element a step"
    return f"ragged, by {lengths}" if lengths else "equal chunks only"
