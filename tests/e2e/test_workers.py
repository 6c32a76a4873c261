"""Several processes on one port are one server, whichever of them dies."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import elman
from tests import waiting
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess
from tests.stepmodels import save_lstm

WORKERS = ("--workers", "2")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_PATIENCE = 20.0
until = partial(waiting.until, seconds=_PATIENCE)


def workers(server: ServerProcess) -> dict[int, psutil.Process]:
    """Those that live, by number; waits for who serves already and is not in the log yet."""

    def pids() -> dict[int, int]:
        lines = [line for line in server.log if line["event"] == "worker serving"]
        return dict(sorted((line["worker"], line["pid"]) for line in lines))

    until(lambda: all(map(psutil.pid_exists, pids().values())))
    return {number: psutil.Process(pid) for number, pid in pids().items()}


def peers(process: psutil.Process, port: int) -> int:
    """How many connections it has."""
    return sum(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
        for connection in process.net_connections("tcp")
    )


def connections(server: ServerProcess) -> list[int]:
    """Of each worker."""
    port = server.event("serving")["grpc_port"]
    return [peers(process, port) for process in workers(server).values()]


def connected(
    stack: ExitStack, server: ServerProcess, *, resume_timeout: float = 60.0
) -> list[elman.Client]:
    """Clients, with at least two on each worker."""

    def one() -> elman.Client:
        return stack.enter_context(elman.connect(server.target, resume_timeout=resume_timeout))

    clients = [one() for _ in range(8)]
    while min(connections(server)) < 2:
        clients.append(one())
        assert len(clients) < 100
    return clients


def opened(clients: Sequence[elman.Client]) -> list[elman.Stream]:
    """A session of each, at its second element."""
    streams = [client.stream("letters") for client in clients]
    for stream in streams:
        stream.step("a")
    return streams


def refused(*arguments: str) -> str:
    """What a server says that does not start, without a line of its log."""
    done = subprocess.run(
        [sys.executable, "-m", "elman_server", "--log-format", "json", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_lstm(root / "letters/1/model.onnx", hidden=64)
    return root


@pytest.fixture(scope="module")
def shared(models: Path) -> Iterator[ServerProcess]:
    """A server that tests leave as they found it."""
    with ServerProcess(str(models), *WORKERS) as server:
        yield server


# Together.


def test_each_answers_its_connections_as_one_process_would(
    shared: ServerProcess, models: Path
) -> None:
    text, oracle = "the quick brown fox", Oracle(models / "letters/1/model.onnx")
    expected = [outputs["next"].tobytes() for outputs in oracle.run(text)]
    with ExitStack() as stack:
        for client in connected(stack, shared):
            found = client.predict("letters", text)
            assert [prediction["next"].tobytes() for prediction in found] == expected


def test_metrics_are_those_of_all_of_them(shared: ServerProcess) -> None:
    def counted(name: str) -> float:
        return shared.metric(name, model="letters")

    with ExitStack() as stack:
        clients = connected(stack, shared)
        opened_, answered = counted("elman_sessions_opened_total"), counted("elman_elements_total")
        streams = opened(clients)
        assert counted("elman_sessions") == counted("elman_state_slots") == len(streams)
        assert counted("elman_sessions_opened_total") - opened_ == len(streams)
        assert counted("elman_elements_total") - answered == len(streams)
        assert counted("elman_element_latency_seconds_count") == counted("elman_elements_total")
    assert shared.metric("elman_workers") == 2
    assert shared.metric("elman_worker_restarts_total") == 0
    until(lambda: counted("elman_sessions") == 0)


def test_what_they_use_is_counted_together(shared: ServerProcess) -> None:
    processes = [psutil.Process(shared.process.pid), *workers(shared).values()]
    resident = sum(process.memory_info().rss for process in processes)
    assert shared.metric("process_resident_memory_bytes") == pytest.approx(resident, rel=0.1)

    def cpu() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    # It goes on while it is read, and a worker that is slow to answer tells what it told last.
    before = cpu()
    until(lambda: before - 0.1 <= shared.metric("process_cpu_seconds_total") <= cpu() + 0.1)
    assert shared.metric("process_start_time_seconds") == pytest.approx(
        processes[0].create_time(), abs=2
    )
    assert shared.metric("python_info") == 1


def test_a_benchmark_spreads_its_connections_and_reads_what_all_use(shared: ServerProcess) -> None:
    command = "from elman.cli import main; main()"
    done = subprocess.run(
        [
            *(sys.executable, "-c", command, "bench", "letters", "--target", shared.target),
            *("--sessions", "16", "--connections", "16", "--seconds", "0.5", "--json"),
            *("--metrics", shared.metrics_url),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["server"]["cpu_seconds"] > 0
    assert result["server"]["steps"] > 0


def test_a_port_that_workers_share_is_taken_for_everybody_else(
    shared: ServerProcess, models: Path
) -> None:
    port = str(shared.event("serving")["grpc_port"])
    for more in ([], list(WORKERS)):
        line = refused(str(models), "--port", port, "--metrics-port", "0", *more)
        assert line == f"elman serve: port {port} on 127.0.0.1: Address already in use"


def test_a_port_or_a_metrics_port_that_is_taken_is_refused(models: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for name, ports in (
            ("port", ["--port", port, "--metrics-port", "0"]),
            ("metrics_port", ["--port", "0", "--metrics-port", port]),
        ):
            line = refused(str(models), *WORKERS, *ports)
            assert line == f"elman serve: {name} {port} on 127.0.0.1: Address already in use"


def test_a_model_that_none_of_them_can_load_ends_the_start_with_one_line(tmp_path: Path) -> None:
    save_lstm(tmp_path / "letters/1/model.onnx")
    broken = tmp_path / "broken/1/model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"this is no model")
    ports = ("--port", "0", "--metrics-port", "0")
    assert str(broken) in refused(str(tmp_path), "--strict", *WORKERS, *ports)


# When one dies.


def test_the_death_of_one_costs_nobody_a_prediction_and_another_takes_its_place(
    models: Path,
) -> None:
    text = "abcdefgh" * 4
    oracle = Oracle(models / "letters/1/model.onnx")
    expected = [outputs["next"].tobytes() for outputs in oracle.run("a" + text)][1:]
    with ServerProcess(str(models), *WORKERS) as server, ExitStack() as stack:
        clients = connected(stack, server)
        streams = opened(clients)
        victim, other = workers(server).values()
        port = server.event("serving")["grpc_port"]
        doomed, spared = peers(victim, port), peers(other, port)
        assert doomed + spared == len(clients)
        # What a scrape has told is never taken back.
        answered = server.metric("elman_elements_total")
        assert answered == len(streams)

        victim.kill()

        extra = 0
        for stream in streams:
            assert [prediction["next"].tobytes() for prediction in stream.map(text)] == expected
        # Who comes while another is started is served: it does not listen before it can.
        while server.metric("elman_workers") < 2:
            with elman.connect(server.target) as client, client.stream("letters") as stream:
                stream.step("a")
                extra += 1
        assert server.metric("elman_worker_restarts_total") == 1
        assert server.event("worker ended")["how"] == "killed by SIGKILL"
        # Those that lost their worker began again, with the one element that they had before.
        answered += len(streams) * len(text) + extra + doomed
        assert server.metric("elman_elements_total") == answered
        until(lambda: server.metric("elman_sessions") == len(streams))
        # The new one gets its share of connections, and counts on from what the old one counted.
        more = opened(connected(stack, server))
        assert server.metric("elman_elements_total") == answered + len(more)
        assert server.terminate() == 0


def test_counters_never_go_back_while_workers_die_under_load(models: Path) -> None:
    with ServerProcess(str(models), *WORKERS) as server:
        load = subprocess.Popen(
            [
                *(sys.executable, "-c", "from elman.cli import main; main()", "bench", "letters"),
                *("--target", server.target, "--sessions", "8", "--connections", "8"),
                *("--seconds", "60"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: server.metric("elman_elements_total") > 0)
            victim, _ = workers(server).values()
            told = [server.metric("elman_elements_total") for _ in range(5)]
            victim.kill()
            while server.metric("elman_worker_restarts_total") < 1 or len(told) < 20:
                told.append(server.metric("elman_elements_total"))
            assert told == sorted(told)
        finally:
            load.kill()
            load.wait()


def test_one_that_is_told_to_end_is_replaced_and_all_end_with_a_supervisor_that_is_killed(
    models: Path,
) -> None:
    with ServerProcess(str(models), *WORKERS) as server, ExitStack() as stack:
        streams = opened(connected(stack, server))
        victim, _ = workers(server).values()
        gone = peers(victim, server.event("serving")["grpc_port"])
        victim.send_signal(signal.SIGTERM)
        until(lambda: server.metric("elman_workers") == 2 and not victim.is_running())
        assert server.metric("elman_worker_restarts_total") == 1
        assert server.event("worker ended")["how"] == "exit code 0"
        told = server.metric("elman_sessions_closed_total", reason="moved")
        assert told == gone
        # Idle ones come back when there is something to push.
        for stream in streams:
            stream.step("a")
        until(lambda: server.metric("elman_sessions") == len(streams))

        processes = list(workers(server).values())
        # One of them wakes to two questions of a supervisor that is gone.
        processes[0].suspend()
        for _ in range(2):
            assert server.metric("elman_sessions") == len(streams)
        server.process.kill()
        server.process.wait()
        processes[0].resume()
        ended, alive = psutil.wait_procs(processes, timeout=_PATIENCE)
        for process in alive:
            process.kill()
        assert (len(ended), alive) == (2, [])


def test_one_that_can_not_start_again_is_tried_until_it_can(tmp_path: Path) -> None:
    save_lstm(tmp_path / "models/letters/1/model.onnx")
    with ServerProcess(str(tmp_path / "models"), *WORKERS) as server:
        shutil.move(tmp_path / "models/letters", tmp_path / "letters")
        victim, _ = workers(server).values()
        victim.kill()
        until(lambda: [e["event"] for e in server.log].count("worker ended") == 2)
        ends = [line for line in server.log if line["event"] == "worker ended"]
        assert [line["again_in"] for line in ends] == [0, 0.5]
        assert str(tmp_path / "models") in ends[-1]["how"]
        # It takes what is there now, and the log says that it is not what the other one serves.
        save_lstm(tmp_path / "letters/2/model.onnx", seed=1)
        shutil.move(tmp_path / "letters", tmp_path / "models/letters")
        until(lambda: server.metric("elman_workers") == 2)
        warning = server.event("worker serves other models than the first did")
        assert warning["worker"] == 1
        assert [len(warning[key]) for key in ("first", "models")] == [1, 2]


# When all are to end.


def test_sigterm_drains_all_of_them(models: Path) -> None:
    text = "abcdefgh" * 100
    oracle = Oracle(models / "letters/1/model.onnx")
    expected = [outputs["next"].tobytes() for outputs in oracle.run("a" + text)][1:]
    with ServerProcess(str(models), *WORKERS) as server, ExitStack() as stack:
        processes = workers(server).values()
        clients = connected(stack, server, resume_timeout=0)
        streams = opened(clients)
        for stream in streams:
            stream.push_many(text)
        # A step on one more session of each is answered after those pushes were read.
        for client in clients:
            with client.stream("letters") as last:
                last.step("x")
        watches = [_watch(stack, server) for _ in range(4)]
        assert {next(watch).status for watch in watches} == {SERVING}
        server.process.send_signal(signal.SIGTERM)
        assert {next(watch).status for watch in watches} == {NOT_SERVING}
        for stream in streams:
            found: list[bytes] = []
            with pytest.raises(elman.ElmanError, match="stopping"):
                found.extend(prediction["next"].tobytes() for prediction in stream)
            assert found == expected
        assert server.terminate() == 0
        assert not any(process.is_running() for process in processes)
    events = [line["event"] for line in server.log]
    assert events[0] == "starting"
    assert events[-1] == "stopped"
    assert "worker ended" not in events


def starting(models: Path) -> "subprocess.Popen[str]":
    """A server that has just said that it starts."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "elman_server", str(models), *WORKERS),
            *("--port", "0", "--metrics-port", "0", "--log-format", "json"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert json.loads(process.stderr.readline())["event"] == "starting"
    return process


def test_a_signal_is_heard_before_the_models_are_loaded(models: Path) -> None:
    with starting(models) as process:
        process.send_signal(signal.SIGTERM)
        events = [json.loads(line)["event"] for line in process.communicate()[1].splitlines()]
    assert process.returncode == 0
    assert [e for e in events if e in ("stopping", "serving")] == ["stopping"]
    assert events[-1] == "stopped"


def test_the_death_of_one_before_all_serve_is_the_end_of_the_start(models: Path) -> None:
    with starting(models) as process:
        supervisor = psutil.Process(process.pid)
        until(lambda: len(supervisor.children()) == 2)
        first, second = supervisor.children()
        first.kill()
        last = process.communicate()[1].splitlines()[-1]
    assert process.returncode == 2
    assert re.fullmatch(r"elman serve: worker [12] did not start: killed by SIGKILL", last)
    assert not second.is_running()


def _watch(stack: ExitStack, server: ServerProcess) -> Any:
    """On a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = stack.enter_context(grpc.insecure_channel(server.target, options))
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest())


def test_a_second_signal_stops_all_of_them_at_once_those_that_work_and_those_that_hang(
    tmp_path: Path,
) -> None:
    save_lstm(tmp_path / "letters/1/model.onnx", hidden=512, layers=2)
    with (
        ServerProcess(str(tmp_path), *WORKERS, "--window", "1000000") as server,
        ExitStack() as stack,
    ):
        clients = connected(stack, server)
        streams = [client.stream("letters", outputs=elman.Top("next", 1)) for client in clients]
        assert server.metric("elman_sessions") == len(streams)
        victim, other = workers(server).values()
        victim.suspend()
        # A scrape does not wait for it, and knows what it told last.
        assert server.metric("elman_sessions") == len(streams)
        for stream in streams:
            stream.push_many("a" * 100_000)
        until(lambda: server.metric("elman_pending_elements") > 100_000)
        server.process.send_signal(signal.SIGINT)
        until(lambda: bool(server.event("stopping")))
        assert server.terminate(timeout=10) == 0
        assert server.event("stopping at once")
        killed = [line for line in server.log if line["event"].startswith("worker killed")]
        assert [line["worker"] for line in killed] == [1]
        assert not victim.is_running()
        assert not other.is_running()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_is_one_signal(models: Path, number: signal.Signals) -> None:
    """As Ctrl-C in a terminal sends it, and some managers of services send SIGTERM."""
    with ServerProcess(str(models), *WORKERS) as server:
        for pid in [*(worker.pid for worker in workers(server).values()), server.process.pid]:
            os.kill(pid, number)
        assert server.process.wait(20) == 0
    events = [line["event"] for line in server.log]
    assert "stopping at once" not in events
    assert "worker serving" not in events[events.index("stopping") :]
