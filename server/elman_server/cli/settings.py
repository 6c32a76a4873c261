"""Settings: `ServerConfig`'s fields as flags, environment variables and keys of a TOML file.

Flags, variables, keys and help texts are derived from the dataclass and its docstrings, so a new
field is declared in a single place. The order of a value's sources is click's: flag, environment,
file, default.
"""

import ast
import inspect
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from elman_server.config import ServerConfig

_POSITIONAL = "repository"
"""The only field passed as an argument instead of a flag."""


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    """Parses names: separated by commas, or a list in TOML."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(name for part in parts if (name := part.strip()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A field of `ServerConfig`, with its flag and environment variable."""

    name: str
    """Name of the field, also its key in the TOML file."""
    hint: Any
    default: Any
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "ELMAN_" + self.name.upper()

    def parameter(self) -> click.Parameter:
        if self.name == _POSITIONAL:
            path = click.Path(exists=True, path_type=Path)
            return click.Argument([self.name], type=path, required=False, envvar=self.variable)
        flag, kind, default, metavar = self.flag, self.hint, self.default, None
        if self.hint is bool:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
        elif get_origin(self.hint) is Literal:
            kind = click.Choice(get_args(self.hint))
        elif get_origin(self.hint) is tuple:
            kind, default, metavar = _names, ",".join(self.default), "NAMES"
        return click.Option(
            [flag, self.name],
            type=kind,
            default=default,
            metavar=metavar,
            help=self.help,
            envvar=self.variable,
            show_envvar=True,
            show_default=True,
        )

    def expected(self, value: object) -> str | None:
        """Returns a description of the expected TOML value, or None if `value` is valid."""
        if self.hint is bool:
            return None if isinstance(value, bool) else "true or false"
        if self.hint in (int, float):
            number = isinstance(value, self.hint | int) and not isinstance(value, bool)
            return None if number else "a whole number" if self.hint is int else "a number"
        if get_origin(self.hint) is tuple:
            strings = isinstance(value, list) and all(isinstance(item, str) for item in value)
            return None if strings else "a list of strings"
        return None if isinstance(value, str) else "a string"


def _docstrings() -> dict[str, str]:
    """Returns the docstring of each field of `ServerConfig`, as a single line."""
    (body,) = ast.parse(inspect.getsource(ServerConfig)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found


def _settings() -> dict[str, Setting]:
    hints, texts = get_type_hints(ServerConfig), _docstrings()
    return {
        field.name: Setting(
            name=field.name,
            hint=hints[field.name],
            default=field.default,
            help=texts.get(field.name, ""),
        )
        for field in fields(ServerConfig)
    }


SETTINGS = _settings()
"""Settings by field name, in the order of `ServerConfig`."""


def read_file(path: Path) -> dict[str, Any]:
    """Returns the values in a TOML file, by field name.

    Raises `click.UsageError` for an unreadable file, an unknown key or a value of the wrong type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path}: not TOML: {error}") from None
    for key, value in values.items():
        if key not in SETTINGS:
            raise click.UsageError(
                f"{path}: {key!r} is no setting; allowed are {', '.join(SETTINGS)}"
            )
        expected = SETTINGS[key].expected(value)
        if expected is not None:
            raise click.UsageError(f"{path}: {key} is {value!r}; expected {expected}")
    return values


def _use_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is not None:
        ctx.default_map = read_file(path)


def _file_option() -> click.Option:
    return click.Option(
        ["--config"],
        type=click.Path(path_type=Path),
        envvar="ELMAN_CONFIG",
        show_envvar=True,
        is_eager=True,
        expose_value=False,
        callback=_use_file,
        help="A TOML file with any of these settings, named as here with _ for -.",
    )


def parameters() -> list[click.Parameter]:
    """Returns an option for each setting, an argument for the repository, and `--config`."""
    return [*(setting.parameter() for setting in SETTINGS.values()), _file_option()]
