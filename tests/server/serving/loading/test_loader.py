"""A model is loaded in a child first, which one that hangs, crashes or fills the memory ends; and
nothing else."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from onnx import helper, numpy_helper

from elman_server.config import ServerConfig
from elman_server.errors import ModelLoadError
from elman_server.model.repository import ModelSource
from elman_server.runner.model import StepModel
from elman_server.serving.loading import probing
from elman_server.serving.loading.children import Children, Said
from elman_server.serving.loading.loaded import LoadedModel
from elman_server.serving.loading.loader import Loader
from tests.stepmodels import (
    FOREVER,
    Shape,
    caption,
    leaky,
    lstm,
    save,
    save_conditioned,
    spinning,
    tilted,
    turning,
)

SECONDS = 60


class Loads(Loader):
    """A loader, and the processes that it has made."""

    def __init__(self) -> None:
        # Other tests' processes may be children of this one too.
        self._others = set(children(os.getpid()))
        super().__init__(Children())

    def fork_servers(self) -> list[int]:
        return [pid for pid in children(os.getpid()) if pid not in self._others]

    async def at_work(self) -> int:
        """A child that a fork server has made, as soon as there is one."""
        async with asyncio.timeout(SECONDS):
            while True:
                found = [child for server in self.fork_servers() for child in children(server)]
                if found:
                    return found[-1]
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def loader() -> AsyncIterator[Loads]:
    loader = Loads()
    yield loader
    loader.close()


def source(path: Path) -> ModelSource:
    return ModelSource(name="m", version="1", path=path)


def config(**settings: Any) -> ServerConfig:
    return ServerConfig(**{"demo": True, "max_batch_size": 4, "load_timeout": SECONDS, **settings})


def children(pid: int) -> list[int]:
    """Of each thread; none of a process or of a thread that is gone."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


async def gone(pid: int) -> None:
    async with asyncio.timeout(SECONDS):
        while Path(f"/proc/{pid}/cmdline").exists():
            await asyncio.sleep(0.01)


async def refused(loader: Loads, path: Path, **settings: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        await loader.load(source(path), config(**settings))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


async def test_a_model_is_what_it_is_in_this_process(loader: Loads, tmp_path: Path) -> None:
    paths = [
        save(*lstm(Shape()), tmp_path / "lstm.onnx"),
        save(*leaky(mixes_rows=True), tmp_path / "mixing.onnx"),
        save_conditioned(caption(), tmp_path / "caption.onnx"),
        save_conditioned(tilted(), tmp_path / "tilted.onnx"),
    ]
    found = await asyncio.gather(*(loader.load(source(path), config()) for path in paths))
    for path, loaded in zip(paths, found, strict=True):
        here = LoadedModel.load(source(path), config())
        assert loaded.source == here.source
        assert loaded.file == here.file.without_graphs()
        assert loaded.probe.chunking == here.probe.chunking
        assert loaded.probe.dependent_rows == here.probe.dependent_rows
        assert loaded.probe.batch_failure == here.probe.batch_failure
        assert loaded.probe.cost.seconds(1, 1) > 0


async def test_a_model_that_hangs_is_given_up_and_keeps_no_other_one_waiting(
    loader: Loads, tmp_path: Path
) -> None:
    hanging = [save(*spinning(FOREVER), tmp_path / f"{n}.onnx") for n in range(3)]
    fine = save(*leaky(), tmp_path / "fine.onnx")
    loads = [
        asyncio.create_task(loader.load(source(path), config(load_timeout=30))) for path in hanging
    ]
    await loader.at_work()
    async with asyncio.timeout(25):
        await loader.load(source(fine), config())
    for load in loads:
        assert not load.done()
        load.cancel()
    message = await refused(loader, hanging[0], load_timeout=1)
    assert message == "a single step of its load took longer than load_timeout, 1 s"


async def test_a_model_whose_load_crashes_ends_nothing_else(loader: Loads, tmp_path: Path) -> None:
    hanging = save(*spinning(FOREVER), tmp_path / "hanging.onnx")
    for number, said in (
        (signal.SIGSEGV, r"died (SIGSEGV)"),
        (signal.SIGABRT, r"died (SIGABRT)"),
        (signal.SIGKILL, "was killed, most likely for want of memory"),
    ):
        load = asyncio.create_task(refused(loader, hanging))
        os.kill(await loader.at_work(), number)
        assert said in await load
    await loader.load(source(save(*leaky(), tmp_path / "fine.onnx")), config())


async def test_a_model_that_takes_too_much_memory_is_refused(loader: Loads, tmp_path: Path) -> None:
    model, spec = leaky()
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([2**33]), "size"))
    graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["zeros"]))
    graph.node.insert(1, helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0))
    graph.node.insert(2, helper.make_node("Add", ["x", "nothing"], ["with it"]))
    for node in graph.node[3:]:
        node.input[:] = ["with it" if name == "x" else name for name in node.input]
    message = await refused(loader, save(model, spec, tmp_path / "model.onnx"))
    assert "memory" in message or "alloc" in message


async def test_what_is_loaded_takes_no_more_than_it_may(loader: Loads, tmp_path: Path) -> None:
    path = save(*lstm(Shape(hidden=1024)), tmp_path / "model.onnx")
    await refused(loader, path, max_load_bytes=2**26)
    await loader.load(source(path), config(max_load_bytes=2**30))


async def test_models_take_memory_in_the_server_one_after_another(
    loader: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, most = 0, 0

    def slowly(*arguments: Any, **options: Any) -> StepModel:
        nonlocal opening, most
        opening += 1
        most = max(most, opening)
        time.sleep(0.2)
        opening -= 1
        return open_model(*arguments, **options)

    open_model = probing.open_model
    monkeypatch.setattr(probing, "open_model", slowly)
    paths = [save(*leaky(width=width), tmp_path / f"{width}.onnx") for width in (1, 2, 3, 4)]
    await asyncio.gather(*(loader.load(source(path), config()) for path in paths))
    assert most == 1


async def test_outputs_and_states_of_megabytes_are_tried_within_bounds(
    loader: Loads, tmp_path: Path
) -> None:
    letters = "".join(chr(0x10000 + number) for number in range(256_000))
    many = lstm(Shape(vocabulary=letters, hidden=4, embedded=2))
    for number, built in enumerate((many, leaky(width=2_500_000))):
        path = save(*built, tmp_path / f"{number}.onnx")
        settings = config(max_batch_size=256, max_load_bytes=900 * 2**20)
        loaded = await loader.load(source(path), settings)
        limits = loaded.limits(settings)
        spec = loaded.file.spec
        assert limits.max_batch_size * (2 * spec.carried_nbytes + spec.output_nbytes) <= 2**26
        assert limits.max_step_elements * spec.output_nbytes <= 2**26


async def test_a_load_that_nobody_waits_for_is_killed(loader: Loads, tmp_path: Path) -> None:
    path = save(*spinning(FOREVER), tmp_path / "hanging.onnx")
    load = asyncio.create_task(loader.load(source(path), config()))
    child = await loader.at_work()
    load.cancel()
    await gone(child)
    load = asyncio.create_task(loader.load(source(path), config()))
    child = await loader.at_work()
    loader.close()
    await gone(child)
    with pytest.raises(ModelLoadError, match=r"the process that loads it is gone$"):
        await load


async def test_a_model_loads_although_what_makes_children_is_killed(
    loader: Loads, tmp_path: Path
) -> None:
    hanging = save(*spinning(FOREVER), tmp_path / "hanging.onnx")
    fine = save(*leaky(), tmp_path / "fine.onnx")
    load = asyncio.create_task(loader.load(source(hanging), config()))
    child = await loader.at_work()
    (fork_server,) = loader.fork_servers()
    os.kill(fork_server, signal.SIGKILL)
    while await loader.at_work() == child or fork_server in loader.fork_servers():
        await asyncio.sleep(0.01)
    load.cancel()
    # It may be found to be gone only when it is asked.
    (fork_server,) = loader.fork_servers()
    os.kill(fork_server, signal.SIGKILL)
    await loader.load(source(fine), config())


ANSWERING = """
import sys
from elman_server.serving.loading import forkserver

def work(connection, graphs):
    connection.sendall(bytes(int.from_bytes(connection.recv(4))))

forkserver.work = work
forkserver.main(int(sys.argv[1]))
"""


def test_how_a_child_ended_is_told_however_late_its_answer_is_read() -> None:
    """An answer that fills the socket leaves no room for more before it is read."""
    control, theirs = socket.socketpair()
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-c", ANSWERING, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
    with server, control, open(os.devnull, "wb") as graphs:
        for nbytes in (*range(200_000, 225_000, 1000), 3_000_000):
            ours, connection = socket.socketpair()
            with ours:
                with connection:
                    socket.send_fds(control, [b"+"], [connection.fileno(), graphs.fileno()])
                ours.sendall(nbytes.to_bytes(4))
                time.sleep(0.1)
                said = bytearray()
                while more := ours.recv(2**20):
                    said += more
                assert said == bytes(nbytes) + b"\n0"
        control.close()


def test_a_child_that_has_no_request_yet_dies_with_what_made_it() -> None:
    control, theirs = socket.socketpair()
    ours, connection = socket.socketpair()
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "elman_server.serving.loading", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
    with server, control, ours, open(os.devnull, "wb") as graphs:
        with connection:
            socket.send_fds(control, [b"+"], [connection.fileno(), graphs.fileno()])
        while not children(server.pid):
            time.sleep(0.01)
        server.kill()
        ours.settimeout(SECONDS)
        assert not ours.recv(1)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"error": "", "detail": "", "description": null, "graphs": null, "probe": null}',
        b'{"error": "", "detail": "", "description": 1, "graphs": {}, "probe": {}}',
        b'{"error": "", "detail": "", "description": {"spec": "{}", "fingerprint": "", '
        b'"data_dependent": "", "proof": null}, "graphs": {"model": "x", "initial": -1}, '
        b'"probe": null}',
    ],
)
async def test_an_answer_that_is_nonsense_is_a_refusal(
    loader: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    async def asking(*_: Any) -> Said:
        return Said(answer=answer, code=0)

    monkeypatch.setattr(Children, "ask", asking)
    path = save(*leaky(), tmp_path / "model.onnx")
    await refused(loader, path)
    with pytest.raises(ModelLoadError):
        await loader.read(source(path), config())


async def test_names_of_any_length_are_told_in_short(loader: Loads, tmp_path: Path) -> None:
    model, spec = turning()
    (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
    loop.name = "\x1b[2J" + "n" * 100_000
    loaded = await loader.load(source(save(model, spec, tmp_path / "model.onnx")), config())
    assert loaded.file.data_dependent == f"Loop '\\x1b[2J{'n' * 96}...'"
    model.graph.node[0].op_type = "n" * 100_000
    message = await refused(loader, save(model, spec, tmp_path / "unknown.onnx"))
    assert len(message) <= 10_000


async def test_a_model_that_no_file_can_be_made_for_is_refused(
    loader: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", none)
    assert "Too many open files" in await refused(loader, tmp_path / "model.onnx")


async def test_what_becomes_of_the_file_meanwhile_makes_no_difference(
    loader: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(*leaky(), tmp_path / "model.onnx")
    ask = Children.ask

    async def asking(self: Children, *arguments: Any) -> Any:
        said = await ask(self, *arguments)
        path.unlink()
        os.mkfifo(path)
        return said

    monkeypatch.setattr(Children, "ask", asking)
    loaded = await loader.load(source(path), config())
    one = np.ones((1, 1, 1), np.float32)
    outputs, _ = loaded.model.step(one, None, loaded.model.initial_states(1), ["y"])
    assert outputs["y"].tolist() == [[[1.0]]]


async def test_a_child_knows_no_secrets(
    loader: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELMAN_TICKET_KEY", "geheim")
    path = save(*spinning(FOREVER), tmp_path / "hanging.onnx")
    load = asyncio.create_task(loader.load(source(path), config(ticket_key=("ab" * 32,))))
    child = await loader.at_work()
    for name in ("environ", "cmdline"):
        assert b"geheim" not in Path(f"/proc/{child}/{name}").read_bytes()
    load.cancel()


async def test_a_file_is_read_without_being_run(loader: Loads, tmp_path: Path) -> None:
    path = save(*spinning(FOREVER), tmp_path / "hanging.onnx")
    file = await loader.read(source(path), config())
    assert file.spec == spinning(FOREVER)[1]
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelLoadError, match="no ordinary file"):
        await loader.read(source(tmp_path / "pipe.onnx"), config())
