"""`elman serve` takes each setting from four places."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from elman.cli import main
from elman_server.cli import serve as serve_module
from elman_server.cli.serve import serve
from elman_server.cli.settings import SETTINGS
from elman_server.config import ServerConfig
from elman_server.errors import StartError
from elman_server.telemetry import logs
from elman_server.workers import supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    code: int | str | None
    out: str
    err: str
    configs: Sequence[ServerConfig]
    """What the server was started with."""


Run = Callable[..., Result]


@pytest.fixture
def elman(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `elman` in this process, with a server that only notes its configuration."""
    configs: list[ServerConfig] = []

    def start(config: ServerConfig, children: object = None) -> int:
        configs.append(config)
        if config.host == "taken":
            raise StartError("port 50051 is in use")
        return 0

    def run(*args: str | Path) -> Result:
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(
            code=exit_.value.code or 0, out=captured.out, err=captured.err, configs=configs
        )

    monkeypatch.setitem(sys.modules, "elman_server.server", SimpleNamespace(run=start))
    monkeypatch.setattr(supervisor, "run", start)
    monkeypatch.setattr(serve_module, "require_free", lambda host, port: None)
    children = nullcontext(SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(serve_module, "Children", lambda: children)
    monkeypatch.setattr(logs, "configure", lambda level, format: None)
    return run


@pytest.fixture(autouse=True)
def key_for_the_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "[state_store]" in request.node.name:
        monkeypatch.setenv("ELMAN_TICKET_KEY", "cd" * 32)


# Each field with a value that is not its default, as written on the command line, in the
# environment and in TOML.
VALUES = {
    "demo": ("true", True, True),
    "strict": ("true", True, True),
    "allow_dependent_rows": ("true", True, True),
    "host": ("0.0.0.0", "0.0.0.0", "0.0.0.0"),
    "reload_interval": ("1.5", 1.5, 1.5),
    "version_grace": ("9.5", 9.5, 9.5),
    "load_timeout": ("9.5", 9.5, 9.5),
    "step_timeout": ("9.5", 9.5, 9.5),
    "read_timeout": ("9.5", 9.5, 9.5),
    "max_step_bytes": ("2097152", 2_097_152, 2_097_152),
    "store_outage": ("continue", "continue", "continue"),
    "max_call_rate": ("2.5", 2.5, 2.5),
    "max_open_rate": ("2.5", 2.5, 2.5),
    "retry_after": ("2.5", 2.5, 2.5),
    "grace_period": ("5", 5, 5.0),
    "ticket_key": ("ab" * 32, ["ab" * 32], ("ab" * 32,)),
    "max_connection_age": ("60", 60, 60.0),
    "park_after": ("60", 60, 60.0),
    "ticket_lifetime": ("60", 60, 60.0),
    "min_ticket_seconds": ("0.5", 0.5, 0.5),
    "state_store": ("file:/tmp/store", "file:/tmp/store", "file:/tmp/store"),
    "session_lease": ("1.5", 1.5, 1.5),
    "session_ttl": ("60", 60, 60.0),
    "checkpoint_interval": ("0.5", 0.5, 0.5),
    "keepalive_time": ("7.5", 7.5, 7.5),
    "workers": ("2", 2, 2),
    "threads": ("3", 3, 3),
    "device": ("cuda:1", "cuda:1", "cuda:1"),
    "providers": ("A,B", ["A", "B"], ("A", "B")),
    "log_level": ("debug", "debug", "debug"),
    "log_format": ("json", "json", "json"),
}
INTEGERS = [field.name for field in fields(ServerConfig) if isinstance(field.default, int)]
VALUES |= {name: ("4097", 4097, 4097) for name in INTEGERS if name not in VALUES}
"""By field: text for flag and environment, TOML value, what `ServerConfig` then holds."""


def test_flags_variables_keys_and_fields_are_the_same() -> None:
    names = [field.name for field in fields(ServerConfig)]
    assert list(SETTINGS) == names
    assert sorted([*VALUES, "repository"]) == sorted(names)
    options = {parameter.name: parameter for parameter in serve.params}
    assert set(options) == {*names, "config"}
    for name in names:
        assert options[name].envvar == f"ELMAN_{name.upper()}"
        if name != "repository":
            assert f"--{name.replace('_', '-')}" in options[name].opts


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_tells_what_it_is_for(name: str, elman: Run) -> None:
    assert SETTINGS[name].help
    assert SETTINGS[name].variable in elman("serve", "--help").out


def test_defaults_are_those_of_the_configuration(elman: Run) -> None:
    assert elman("serve", "--demo").configs == [ServerConfig(demo=True)]


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_comes_from_a_flag(name: str, elman: Run) -> None:
    text, _, expected = VALUES[name]
    flag = SETTINGS[name].flag
    (config,) = elman("serve", "--demo", *([flag] if expected is True else [flag, text])).configs
    assert getattr(config, name) == expected


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_comes_from_the_environment(
    name: str, elman: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, _, expected = VALUES[name]
    monkeypatch.setenv("ELMAN_DEMO", "true")
    monkeypatch.setenv(SETTINGS[name].variable, text)
    (config,) = elman("serve").configs
    assert getattr(config, name) == expected


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_comes_from_the_file(name: str, elman: Run, tmp_path: Path) -> None:
    _, value, expected = VALUES[name]
    file = tmp_path / "elman.toml"
    file.write_text(f"{name} = {json.dumps(value)}\n")
    arguments = [] if name == "demo" else ["--demo"]
    (config,) = elman("serve", *arguments, "--config", file).configs
    assert getattr(config, name) == expected


def test_the_repository_is_an_argument_a_variable_and_a_key(
    elman: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "elman.toml"
    file.write_text(f"repository = {json.dumps(str(tmp_path))}\n")
    elman("serve", tmp_path)
    elman("serve", "--config", file)
    monkeypatch.setenv("ELMAN_REPOSITORY", str(tmp_path))
    assert elman("serve").configs == [ServerConfig(repository=tmp_path)] * 3


def test_flag_wins_over_environment_over_file_over_default(
    elman: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "elman.toml"
    file.write_text("port = 1\nmetrics_port = 1\nwindow = 1\n")
    monkeypatch.setenv("ELMAN_CONFIG", str(file))
    monkeypatch.setenv("ELMAN_PORT", "2")
    monkeypatch.setenv("ELMAN_METRICS_PORT", "2")
    (config,) = elman("serve", "--demo", "--port", "3").configs
    default = ServerConfig(demo=True)
    assert (config.port, config.metrics_port, config.window) == (3, 2, 1)
    assert config.max_chunk == default.max_chunk


def test_a_switch_of_the_environment_can_be_turned_off(
    elman: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELMAN_DEMO", "true")
    (config,) = elman("serve", tmp_path, "--no-demo").configs
    assert not config.demo


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("prot = 1", "'prot' is no setting; allowed are repository, demo, "),
        ("port = '1'", "port is '1'; expected a whole number"),
        ("port = true", "port is True; expected a whole number"),
        ("grace_period = 'long'", "grace_period is 'long'; expected a number"),
        ("demo = 1", "demo is 1; expected true or false"),
        ("host = 1", "host is 1; expected a string"),
        ("providers = 'CPU'", "providers is 'CPU'; expected a list of strings"),
        ("port 1", "not TOML: "),
    ],
)
def test_a_wrong_file_is_one_line_and_exit_code_2(
    toml: str, message: str, elman: Run, tmp_path: Path
) -> None:
    file = tmp_path / "elman.toml"
    file.write_text(toml)
    result = elman("serve", "--demo", "--config", file)
    assert result.code == 2
    assert result.err.startswith(f"elman serve: {file}: {message}")
    assert result.err.count("\n") == 1
    assert not result.configs


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "there is nothing to serve: name a repository or a model, or use --demo"),
        (["none"], "Invalid value for '[REPOSITORY]': Path 'none' does not exist."),
        (["--demo", "--port", "99999"], "port is 99999; allowed is 0 to 65535"),
        (["--demo", "--port", "x"], "Invalid value for '--port'"),
        (["--demo", "--log-level", "loud"], "Invalid value for '--log-level'"),
        (["--demo", "--config", "none.toml"], "none.toml: No such file or directory"),
        (["--demo", "--host", "taken"], "port 50051 is in use"),
    ],
)
def test_what_keeps_a_server_from_starting_is_one_line_and_exit_code_2(
    args: list[str], message: str, elman: Run
) -> None:
    result = elman("serve", *args)
    assert result.code == 2
    assert result.err.startswith(f"elman serve: {message}")
    assert result.err.count("\n") == 1
