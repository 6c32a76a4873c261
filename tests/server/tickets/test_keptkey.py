"""The key of servers that have none configured: where it is kept, and when it is not used."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import pytest
import structlog

from elman_server.tickets.keptkey import KeyNotKept, kept_key, own_key
from elman_server.tickets.keys import new_key, parse_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "elman" / "ticket-key"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once_and_is_its_users_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        key = kept_key(path)
    finally:
        os.umask(before)
    assert parse_key(key)
    assert kept_key(path) == key
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["ticket-key"]


def test_servers_that_start_together_have_the_same(path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(kept_key, [path] * 64))
    assert keys == {path.read_text().strip()}


@pytest.mark.parametrize("wide", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_is_not_used(path: Path, wide: int) -> None:
    kept_key(path)
    path.chmod(wide)
    with pytest.raises(KeyNotKept, match=f"ticket-key has mode {wide:o}; allowed is 600"):
        kept_key(path)


@pytest.mark.parametrize("wide", [0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_not_used(path: Path, wide: int) -> None:
    path.parent.mkdir(parents=True)
    path.parent.chmod(wide)
    with pytest.raises(KeyNotKept, match=f"elman has mode {wide:o}"):
        kept_key(path)
    assert not path.exists()


def test_what_belongs_to_somebody_else_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_key(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(KeyNotKept, match="belongs to user"):
        kept_key(path)


@pytest.mark.parametrize("text", ["", "secret\n", new_key()[:-8], "x" * 5000])
def test_what_is_no_key_is_not_used_and_stays(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyNotKept, match="does not hold 32 bytes"):
        kept_key(path)
    assert path.read_text() == text


def test_neither_a_link_nor_a_pipe_nor_a_folder_is_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(parents=True, mode=0o700)
    elsewhere = tmp_path / "key"
    elsewhere.write_text(new_key())
    elsewhere.chmod(0o600)
    path.symlink_to(elsewhere)
    with pytest.raises(KeyNotKept):
        kept_key(path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyNotKept, match="is no file"):
        kept_key(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(KeyNotKept):
        kept_key(path)


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
    with structlog.testing.capture_logs() as log:
        own_key().log()
    assert (log[0]["log_level"], log[0]["path"]) == ("info", str(path))
    assert path.read_text().strip() not in str(log)
