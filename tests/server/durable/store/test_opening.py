"""A URL is a store, or one line that says why it is none."""

import importlib.util
from pathlib import Path

import pytest

from elman_server.durable.store.file import FileStore
from elman_server.durable.store.interface import Held
from elman_server.durable.store.opening import ALLOWED, OpeningError, open_store, redacted
from elman_server.durable.store.redis import RedisStore
from tests.server.durable.store.redisserver import RedisServer
from tests.server.durable.store.worlds import claimed, settle


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/2",
        "redis://:password@[::1]:6379/0?prefix=mine:",
        "REDIS://user:password@host",
        "rediss://host/1?ssl_ca_certs=/ca.pem&ssl_check_hostname=false&prefix=a",
        "unix:///run/redis.sock?db=3&prefix=mine:",
        "unix://user:password@/run/redis.sock",
    ],
)
async def test_a_redis_is_opened_without_being_asked(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, RedisStore)
    await store.close()


@pytest.mark.parametrize("form", ["file:{}", "file://{}"])
async def test_a_folder_is_made(tmp_path: Path, form: str) -> None:
    store = open_store(form.format(f"{tmp_path}/some%20where/deep"))
    assert isinstance(store, FileStore)
    await store.close()
    assert (tmp_path / "some where" / "deep").is_dir()


async def test_the_settings_of_a_url_are_heeded(redis_server: RedisServer) -> None:
    opened = [
        open_store(f"{redis_server.url}/1?prefix=opening:"),
        open_store(f"unix://{redis_server.socket}?prefix=opening:&db=1"),
        open_store(f"{redis_server.url}/2?prefix=opening:"),
        open_store(f"{redis_server.url}/1?prefix=another:"),
    ]
    for database, prefix in ((1, "opening:"), (2, "opening:"), (1, "another:")):
        settle(f"{redis_server.url}/{database}", prefix)
    await claimed(opened[0], "key", "a")
    assert isinstance(await opened[1].claim("key", owner="b", lease_seconds=30), Held)
    for store in opened[2:]:
        await claimed(store, "key", "b")
    for store in opened:
        await store.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "no such kind of store"),
        ("localhost:6379", "no such kind of store"),
        ("http://localhost", "no such kind of store"),
        ("/var/lib/elman", "no such kind of store"),
        ("redis://", "it names no host"),
        ("redis:localhost", "it names no host"),
        ("redis://host:port", "Port could not be cast"),
        ("redis://host:99999", "Port out of range"),
        ("redis://host:0", "the port is 0"),
        ("redis://host/name", "the database is 'name'"),
        ("redis://host#part", "it has a fragment"),
        ("redis://host?timeout=3", "redis has no setting 'timeout', only prefix"),
        ("redis://host?ssl_keyfile=x", "redis has no setting 'ssl_keyfile'"),
        ("redis://host?prefix=", "prefix is ''"),
        ("redis://host?prefix={tag}", "prefix is '{tag}'"),
        ("redis://[::1", "Invalid IPv6 URL"),
        ("rediss://host?ssl_check_hostname=maybe", "must be one of true, false"),
        ("rediss://host?ssl_cert_reqs=no", "must be one of required, optional, none"),
        ("unix://run/redis.sock", "not an absolute path"),
        ("unix://", "not an absolute path"),
        ("unix:///socket?db=x", "db is 'x'"),
        ("file:relative/path", "not an absolute path"),
        ("file:", "not an absolute path"),
        ("file://host/path", "not an absolute path"),
        ("file:/path?prefix=x", "a folder has no settings"),
    ],
)
def test_any_other_url_is_refused_by_what_came_and_what_is_allowed(url: str, reason: str) -> None:
    with pytest.raises(OpeningError) as error:
        open_store(url)
    message = str(error.value)
    assert message.startswith(f"the state store is {url!r}: ")
    assert reason in message
    assert message.endswith(ALLOWED)
    assert "\n" not in message


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@",
        "http://user:secret@host",
        "redis://a:secret@x@host/y",
        "redis://default:Pass/secret==@host:6379/0",
        "redis://user:pa#secret@host",
        "redis://user:pa?secret=1@host",
        "redis://user:[secret@host",
    ],
)
def test_a_password_is_not_told(url: str) -> None:
    with pytest.raises(OpeningError) as error:
        open_store(url)
    assert "secret" not in str(error.value)
    assert "***@" in redacted(url)


def test_a_folder_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OpeningError, match="can't be made: "):
        open_store(f"file:{tmp_path}/file/store")


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OpeningError) as error:
        open_store("redis://:secret@localhost")
    assert str(error.value) == (
        "the state store 'redis://***@localhost' needs the extra 'redis': "
        "pip install 'elman[redis]'"
    )
