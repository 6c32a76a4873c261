"""The key of servers that have none configured: where it is kept, and when it is not used."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import pytest
import structlog

from elman_server.durable.tickets.keptkey import KeyNotKept, OwnKey, kept_key, own_key
from elman_server.durable.tickets.keyring import Keyring
from elman_server.durable.tickets.keys import new_key, parse_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "elman" / "ticket-key"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once_and_is_its_users_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        key = kept_key(path, new_key())
    finally:
        os.umask(before)
    assert parse_key(key)
    assert kept_key(path, new_key()) == key
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["ticket-key"]


def test_servers_that_start_together_have_the_same(path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: kept_key(path, new_key()), range(64)))
    assert keys == {path.read_text().strip()}


@pytest.mark.parametrize("wide", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_is_not_used(path: Path, wide: int) -> None:
    kept_key(path, new_key())
    path.chmod(wide)
    with pytest.raises(KeyNotKept, match=f"ticket-key has mode {wide:o}; allowed is 600"):
        kept_key(path, new_key())


@pytest.mark.parametrize("wide", [0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_not_used(path: Path, wide: int) -> None:
    path.parent.mkdir(parents=True)
    path.parent.chmod(wide)
    with pytest.raises(KeyNotKept, match=f"elman has mode {wide:o}"):
        kept_key(path, new_key())
    assert not path.exists()


def test_what_belongs_to_somebody_else_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_key(path, new_key())
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(KeyNotKept, match="belongs to user"):
        kept_key(path, new_key())


@pytest.mark.parametrize("text", ["", "secret\n", new_key()[:-8], "x" * 5000])
def test_what_is_no_key_is_not_used_and_stays(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyNotKept, match="does not hold 32 bytes"):
        kept_key(path, new_key())
    assert path.read_text() == text


def test_neither_a_link_nor_a_pipe_nor_a_folder_is_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(parents=True, mode=0o700)
    elsewhere = tmp_path / "key"
    elsewhere.write_text(new_key())
    elsewhere.chmod(0o600)
    path.symlink_to(elsewhere)
    with pytest.raises(KeyNotKept):
        kept_key(path, new_key())
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyNotKept, match="is no file"):
        kept_key(path, new_key())
    path.unlink()
    path.mkdir()
    with pytest.raises(KeyNotKept):
        kept_key(path, new_key())


def test_where_none_can_be_kept_each_server_has_its_own_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(platformdirs, "user_state_dir", lambda *_, **__: f"{tmp_path}/file")
    one, two = own_key(), own_key()
    assert one.text != two.text
    assert one.path is None
    with structlog.testing.capture_logs() as log:
        one.log()
    assert (log[0]["log_level"], log[0]["setting"]) == ("warning", "ELMAN_TICKET_KEY")
    assert "none can be kept" in log[0]["event"]
    assert str(tmp_path / "file") in log[0]["problem"]


def test_a_home_that_is_not_known_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_state_dir", lambda *_, **__: "~/x")
    assert own_key().path is None


def test_the_log_says_where_it_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_state_dir", lambda *_, **__: path.parent)
    key = own_key()
    with structlog.testing.capture_logs() as log:
        key.log()
    assert (log[0]["log_level"], log[0]["path"]) == ("info", str(path))
    assert key.text not in str(log)


def test_a_server_that_seals_nothing_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_state_dir", lambda *_, **__: path.parent)
    key = own_key()
    keyring = Keyring([parse_key(key.text)], keep=lambda: parse_key(key.keep()))
    assert not path.parent.parent.exists()
    sealed = keyring.seal(b"content")
    assert path.read_text().strip() == key.text
    assert keyring.open(sealed) == b"content"


def test_servers_that_started_before_any_sealed_use_what_the_first_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_state_dir", lambda *_, **__: path.parent)
    keys = [own_key() for _ in range(3)]
    assert len({key.text for key in keys}) == 3

    def keyring(key: OwnKey) -> Keyring:
        return Keyring([parse_key(key.text)], keep=lambda: parse_key(key.keep()))

    first, second, third = map(keyring, keys)
    sealed = first.seal(b"first")
    assert third.open(sealed) == b"first"
    assert first.open(second.seal(b"second")) == b"second"
    assert first.open(third.seal(b"third")) == b"third"


def test_a_key_that_can_be_kept_no_more_is_used_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_state_dir", lambda *_, **__: path.parent)
    key = own_key()
    path.parent.parent.touch()
    with structlog.testing.capture_logs() as log:
        assert key.keep() == key.text
    assert log[0]["log_level"] == "warning"
    assert key.text not in str(log)
