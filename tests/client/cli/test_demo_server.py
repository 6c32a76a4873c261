"""The demo's server either serves or says in one line why it does not."""

import pytest

from elman.cli.demo import server
from elman.cli.demo.failure import DemoFailed
from elman.cli.demo.server import DemoServer


def test_a_server_that_does_not_start_is_told_by_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "_ARGUMENTS", ("--there-is-no-such-flag",))
    with pytest.raises(DemoFailed, match=r"^the server did not start: .*no-such-flag.*$"):
        DemoServer.start()


def test_a_server_that_died_is_noticed_when_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with DemoServer.start() as running:
        running._kill()
        with pytest.raises(DemoFailed, match=r"^the server died: "):
            running.stop()


def test_settings_of_the_users_own_server_do_not_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ELMAN_MAX_BATCH_SIZE", "nonsense")
    with DemoServer.start() as running:
        running.stop()
