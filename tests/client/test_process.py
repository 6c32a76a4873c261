"""What the SDK does to the process that it lives in: its import, its exit, an interrupt."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import elman
from tests.client.fake_server import FakeServer

HEAVY = ("click", "rich", "torch", "onnx", "onnxruntime", "prometheus_client", "pydantic")


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_importing_it_loads_nothing_heavy() -> None:
    done = run("import sys, elman; print(*sys.modules)")
    loaded = set(done.stdout.split())
    assert "elman" in loaded
    assert not loaded & {*HEAVY, "elman_server", "elman_export", "elman.aio"}


def test_it_loads_grpc_when_a_name_is_used() -> None:
    done = run(
        "import sys, elman; print('grpc' in sys.modules); elman.connect; "
        "print('grpc' in sys.modules)"
    )
    assert done.stdout.split() == ["False", "True"]


def test_every_name_is_there() -> None:
    done = run(
        "import elman; assert set(elman.__all__) <= set(dir(elman)); "
        "print(*(getattr(elman, name) for name in elman.__all__))"
    )
    assert done.returncode == 0, done.stderr
    assert run("from elman import *; print(connect, aio)").returncode == 0


def test_elman_aio_is_imported_when_it_is_used() -> None:
    done = run("import elman; print(elman.aio.connect.__module__)")
    assert done.stdout.strip() == "elman.aio._client"
    done = run("import elman; elman.nothing")
    assert "module 'elman' has no attribute 'nothing'" in done.stderr


@pytest.mark.parametrize("name", ["aio", "errors", "v1", "_threads"])
@pytest.mark.parametrize("before", ["", "elman.aio", "elman.connect", "elman.ElmanError"])
def test_a_module_of_it_is_there_whatever_was_used_before(name: str, before: str) -> None:
    done = run(f"import elman; {before}\nprint('{name}' in dir(elman), elman.{name}.__name__)")
    assert done.stdout.split() == ["True", f"elman.{name}"], done.stderr


def test_what_is_imported_when_it_is_used_is_what_type_checkers_see() -> None:
    tree = ast.parse(Path(elman.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: f"elman.{home}" for name, home in elman._HOMES.items()} | {"aio": "elman"}
    assert sorted(seen) == elman.__all__
    assert set(elman.__all__) | elman._SUBMODULES <= set(dir(elman))


@pytest.mark.parametrize("then", ["", "raise SystemExit(3)", "import sys; sys.exit(3)"])
def test_a_client_that_nobody_closed_does_not_keep_the_process(
    server: FakeServer, then: str
) -> None:
    server.hold()
    program = f"""
import sys, elman
client = elman.connect(sys.argv[1])
stream = client.stream("letters")
stream.push("a")
predictions = stream.map(iter("abc"))
{then}
"""
    done = run(program, server.target)
    assert (done.returncode, done.stderr) == (3 if then else 0, "")


def test_an_interrupt_reaches_whoever_waits(server: FakeServer) -> None:
    server.hold()
    program = """
import signal, sys, threading, elman
with elman.connect(sys.argv[1], timeout=float("inf")) as client:
    with client.stream("letters") as stream:
        stream.push("a")
        main = threading.main_thread().ident
        threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT]).start()
        try:
            next(stream)
        except KeyboardInterrupt:
            print("interrupted")
    client.close(grace=0)
"""
    done = run(program, server.target)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_asyncio_ends_with_streams_open(server: FakeServer) -> None:
    server.hold()
    program = """
import asyncio, sys, elman.aio

async def main():
    client = await elman.aio.connect(sys.argv[1])
    stream = await client.stream("letters")
    await stream.push("a")
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)

asyncio.run(main())
"""
    done = run(program, server.target)
    assert (done.returncode, done.stderr) == (0, "")
