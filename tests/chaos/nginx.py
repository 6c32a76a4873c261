"""A real nginx before a server, with its defaults but for what a test says."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from tests import needs
from tests.chaos.fleet import fixed_port

_CONFIGURATION = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} http2;
        {settings}
        location / {{ grpc_pass grpc://{target}; }}
    }}
}}
"""


@contextmanager
def nginx(target: str, settings: str = "") -> Iterator[str]:
    """Its address. `settings`: of its `server`."""
    program = needs.program("nginx", "nginx-light")
    port = fixed_port(Random())
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, "nginx.conf")
        configuration.write_text(
            _CONFIGURATION.format(folder=folder, port=port, settings=settings, target=target)
        )
        process = subprocess.Popen(
            [program, "-p", folder, "-c", str(configuration)], stderr=subprocess.DEVNULL
        )
        try:
            _wait(port)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise RuntimeError("nginx does not start")
