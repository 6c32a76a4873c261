"""`elman export`: writes a step model and prints the results of the proof.

Training code and torch are loaded only when needed.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from elman_export.cli import declare, summary
from elman_export.errors import ExportError
from elman_export.options import GraphInputs, ModuleArguments, Options
from elman_export.writer import Report
from elman_server.model.modelfile import NAME
from elman_server.model.spec import InputSpec

T = TypeVar("T")

RECIPES = ("sentiment", "shakespeare", "weather")


def _folder_or_file(_context: click.Context, _parameter: click.Parameter, value: str) -> Path:
    # As a path, an empty text is the current folder; an unset shell variable does not mean this.
    if not value:
        raise click.BadParameter("it is empty; allowed is a file or a model repository")
    return Path(value)


@click.command()
@click.argument("source")
@click.option(
    "--output",
    "-o",
    "target",
    callback=_folder_or_file,
    required=True,
    metavar="PATH",
    help="The file to write, or a model repository for NAME/1/model.onnx.",
)
@click.option("--name", help="The model's name in a repository.  [default: from SOURCE]")
@click.option("--description", default="", help="A description for people, in one line.")
@click.option(
    "--input",
    "input_",
    metavar="KIND",
    help="The kind of an element: text:VOCABULARY_FILE, tokens:SIZE, tokens:NAMES_FILE or "
    "features:SHAPE. Often known from an ONNX graph.",
)
@click.option(
    "--unknown", metavar="CHARACTER", help="Replaces characters outside of the vocabulary."
)
@click.option(
    "--returns",
    "outputs",
    multiple=True,
    metavar="NAME=KIND",
    help="An output and its kind: values, logits or probabilities, with an optional :LABELS_FILE, "
    "or :input for the input's vocabulary as labels. Repeatable; for a torch module, in the order "
    "of its outputs.",
)
@click.option(
    "--weights", type=click.Path(path_type=Path), help="A torch module's state dict (.pt)."
)
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="IN:OUT",
    help="A state: an input of an ONNX graph and the output with its next value. For a torch "
    "module with explicit states, NAME:SHAPE, such as h:128. Repeatable.",
)
@click.option(
    "--constant",
    "constants",
    multiple=True,
    metavar="NAME=VALUE",
    help="An input with a constant value: numbers, or an .npy file. Repeatable.",
)
@click.option(
    "--context",
    "contexts",
    multiple=True,
    metavar="NAME",
    help="An input given once, at the open of a session. For a torch module, NAME:SHAPE, such as "
    "picture:12x12, in the order of its arguments. Repeatable.",
)
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    help="The number of last values of an element to put before the next element.",
)
@click.option(
    "--examples",
    type=click.Path(path_type=Path),
    help="An .npy file of sequences for the proof, [batch, time, ...], beside random sequences.",
)
@click.option(
    "--expected",
    "expected",
    multiple=True,
    metavar="OUTPUT=FILE",
    help="An output's expected values for the examples, [batch, time, ...]. Repeatable.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="The largest allowed difference from the original.",
)
@click.option("--quantize", type=click.Choice(["int8"]), help="Make the model smaller and faster.")
@click.option(
    "--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A recipe's data."
)
def export(source: str, target: Path, **flags: Any) -> None:
    """Make a step model of a trained network, prove that it is the same network, and write it.

    SOURCE is one of

    \b
      file.onnx                a graph: of whole sequences, or of steps, with states
      package.module:factory   a torch module, or a factory of a module
      weather                  a bundled model to train again (also sentiment, shakespeare)

    \b
    elman export vad.onnx --constant sr=16000 --input features:512 --overlap 64 -o models/
    elman export whole.onnx --returns logits=logits -o models/letters/1/model.onnx
    elman export mymodels.letters:NextLetter --weights letters.pt \\
        --input text:letters.txt --returns next=logits:input -o models/
    elman export shakespeare --data tinyshakespeare.txt -o models/
    """
    try:
        # A recipe shows the progress of its training.
        with nullcontext() if source in RECIPES else _working(f"exporting {source}"):
            report = _export(source, target, Flags(**flags))
    except (ExportError, OSError) as error:
        raise click.ClickException(str(error)) from None
    console = Console(highlight=False, markup=False)
    console.print(summary.table(report))
    console.print(summary.lines(report), soft_wrap=True)


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Shows the elapsed time on a terminal: training or a proof may take minutes."""
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    progress = Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with progress:
        progress.add_task(what, total=None)
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """Options of the command besides source and target, as texts."""

    name: str | None
    description: str
    input_: str | None
    unknown: str | None
    outputs: tuple[str, ...]
    weights: Path | None
    states: tuple[str, ...]
    constants: tuple[str, ...]
    contexts: tuple[str, ...]
    overlap: int | None
    examples: Path | None
    expected: tuple[str, ...]
    tolerance: float | None
    quantize: str | None
    data: Path | None

    def refuse(self, source: str, *names: str) -> None:
        """Raises `ExportError` for a given option without meaning for this source."""
        for name in names:
            if getattr(self, name) not in (None, "", ()):
                option = _OPTION_NAMES.get(name, name)
                raise ExportError(f"--{option} means nothing for {source}")

    def input(self) -> InputSpec | None:
        """Returns the description of the elements, if given."""
        if self.input_ is not None:
            return declare.input(self.input_, unknown=self.unknown)
        if self.unknown is not None:
            raise ExportError("--unknown is of --input text:FILE, which is not given")
        return None

    def options(self, input: InputSpec | None) -> Options:
        """Returns the options of every export except a recipe's."""
        vocabulary = () if input is None else input.vocabulary
        outputs = [declare.output(each, vocabulary) for each in self.outputs]
        examples = self.examples
        return Options(
            outputs=outputs,
            description=self.description,
            examples=None if examples is None else declare.array("--examples", examples),
            expected=_each_once("--expected", map(_expected, self.expected)),
            tolerance=self.tolerance,
            quantized=self.quantize == "int8",
        )


_OPTION_NAMES = {
    "input_": "input",
    "outputs": "returns",
    "states": "state",
    "constants": "constant",
    "contexts": "context",
}
_OF_GRAPHS = ("constants", "overlap", "expected")
_OF_MODULES = ("weights",)


def _export(source: str, target: Path, flags: Flags) -> Report:
    if source in RECIPES:
        others = [each.name for each in fields(Flags) if each.name != "data"]
        flags.refuse(f"the recipe {source!r}", *others)
        if target.suffix == ".onnx":
            raise ExportError(
                f"--output {target} is a file; a recipe also writes a model card: pass a repository"
            )
        recipe = import_module(f"elman_export.recipes.{source}")
        report: Report = recipe.run(flags.data, target)
        return report
    if ":" in source and not Path(source).exists():
        flags.refuse("a torch module", *_OF_GRAPHS, "data")
        return _module(source, _place(target, flags.name, source.partition(":")[2]), flags)
    if not source.endswith(".onnx") and not Path(source).exists():
        raise ExportError(
            f"{source!r} is no recipe ({', '.join(RECIPES)}), no package.module:factory and no file"
        )
    if Path(source).is_dir():
        raise ExportError(f"{source} is a folder; a graph is a file")
    flags.refuse("an ONNX graph", *_OF_MODULES, "data")
    place = _place(target, flags.name, Path(source).stem)
    if place.exists() and place.samefile(source):
        raise ExportError(f"--output {place} is the source itself; write to another place")
    return _graph(Path(source), place, flags)


def _place(target: Path, name: str | None, usual: str) -> Path:
    """Returns `target` if it is a file, otherwise the model's path in the repository."""
    if target.suffix == ".onnx":
        if name is not None:
            raise ExportError(
                f"--name {name} is of a model in a repository, but --output {target} is a file; "
                "leave --name out, or pass a folder"
            )
        return target
    name = usual if name is None else name
    if not NAME.fullmatch(name):
        raise ExportError(f"the model can't be called {name!r}; pass --name, or a file to --output")
    return target / name / "1" / "model.onnx"


def _module(source: str, target: Path, flags: Flags) -> Report:
    if flags.input_ is None:
        raise ExportError(
            "a torch module does not say what its elements are: pass --input, as tokens:1000 or "
            "features:40"
        )
    if not flags.outputs:
        raise ExportError(
            "a torch module does not say what it returns: pass --returns, as y=values, for each "
            "output in order"
        )
    states = [declare.state(each) for each in flags.states]
    contexts = [declare.context(each) for each in flags.contexts]
    input = declare.input(flags.input_, unknown=flags.unknown)
    arguments = ModuleArguments(input=input, states=states, contexts=contexts)
    options = flags.options(input)
    # Checks without torch come first: importing torch takes seconds.
    from elman_export.exporter import export_module
    from elman_export.original import factory

    module = factory.build(source, flags.weights)
    report = export_module(module, target, arguments, options)
    if flags.weights is None and any(True for _ in module.parameters()):
        note = f"no --weights: its parameters are those that {source} made"
        report = replace(report, notes=(*report.notes, note))
    return report


def _graph(source: Path, target: Path, flags: Flags) -> Report:
    from elman_export import sandbox
    from elman_export.original.graphfile import export_file

    states = _each_once("--state", (declare.pair("--state", each) for each in flags.states))
    constants = _each_once(
        "--constant", (declare.value("--constant", each) for each in flags.constants)
    )
    input = flags.input()
    inputs = GraphInputs(
        input=input,
        states=states,
        constants=constants,
        contexts=flags.contexts,
        overlap=flags.overlap or 0,
    )
    # A user's file may ask for any amount of memory, or crash the runtime.
    return sandbox.run(export_file, source, target, inputs, flags.options(input))


def _each_once(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    values: dict[str, T] = {}
    for name, value in pairs:
        if name in values:
            raise ExportError(f"{option} {name} is given twice; allowed is once")
        values[name] = value
    return values


def _expected(text: str) -> tuple[str, Any]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise ExportError(f"--expected is {text!r}; allowed is OUTPUT=FILE.npy")
    return name, declare.array("--expected", Path(path))
