"""Opening of the state store at a URL."""

import importlib.util
import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from elman_server.durable.store.file import FileStore
from elman_server.durable.store.interface import StateStore

ALLOWED = (
    "redis://HOST[:PORT][/DB], rediss://HOST[:PORT][/DB], unix:///SOCKET[?db=DB] and file:/FOLDER"
)
"""The allowed URLs. The first three may contain [USER]:PASSWORD@ and the settings below."""
EXTRA = "redis"
"""The optional dependency group with redis-py."""

_REDIS = ("redis", "rediss", "unix")
_TLS = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile")
_SETTINGS = {"redis": ("prefix",), "rediss": ("prefix", *_TLS), "unix": ("db", "prefix")}

_VALUES = {
    "ssl_cert_reqs": ("required", "optional", "none"),
    "ssl_check_hostname": ("true", "false"),
}


class OpeningError(Exception):
    """The store can't be opened: the URL is invalid or a dependency is missing. The message is one
    line, without the URL's password."""


def open_store(url: str) -> StateStore:
    """Opens a store for this process. The caller must close the store.

    A connection to Redis starts only at the first call, because a Redis may be down now and up
    later. A folder is created if it is missing. Raises `OpeningError`.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme == "file":
            return _folder(url, parts)
        if parts.scheme in _REDIS:
            return _redis(url, parts)
    except ValueError as error:  # from urlsplit or from reading the parts
        raise _refused(url, str(error)) from None
    raise _refused(url, "no such kind of store")


def redacted(url: str) -> str:
    """Returns the URL without user and password."""
    return re.sub(r"//.*@", "//***@", url, count=1, flags=re.DOTALL)


def _refused(url: str, reason: str) -> OpeningError:
    if "@" in url:  # the reason may contain a part of the password
        reason = "something is wrong with it, or its password is not percent-encoded"
    return OpeningError(f"the state store is {redacted(url)!r}: {reason}; allowed are {ALLOWED}")


def _folder(url: str, parts: SplitResult) -> FileStore:
    path = Path(unquote(parts.path))
    if parts.netloc or not path.is_absolute():
        raise _refused(url, "the folder is not an absolute path")
    if parts.query or parts.fragment:
        raise _refused(url, "a folder has no settings")
    try:
        return FileStore(path)
    except OSError as error:
        raise OpeningError(f"the state store {path} can't be made: {error}") from error


def _redis(url: str, parts: SplitResult) -> StateStore:
    if parts.scheme == "unix":
        if parts.hostname or not parts.path.strip("/"):
            raise _refused(url, "the socket is not an absolute path")
    elif not parts.hostname:
        raise _refused(url, "it names no host")
    elif not re.fullmatch(r"(/\d*)?", parts.path):
        raise _refused(url, f"the database is {parts.path[1:]!r}, and must be a number")
    if parts.port == 0:
        raise _refused(url, "the port is 0")
    if parts.fragment:
        raise _refused(url, f"it has a fragment, {parts.fragment!r}")
    known = _SETTINGS[parts.scheme]
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in settings.items():
        if name not in known:
            raise _refused(url, f"{parts.scheme} has no setting {name!r}, only {', '.join(known)}")
        if name in _VALUES and value not in _VALUES[name]:
            allowed = ", ".join(_VALUES[name])
            raise _refused(url, f"{name} is {value!r}, and must be one of {allowed}")
    if not settings.get("db", "0").isdecimal():
        raise _refused(url, f"db is {settings['db']!r}, and must be a number")
    prefix = settings.pop("prefix", None)
    if prefix is not None and not re.fullmatch(r"[^{}]+", prefix):
        raise _refused(url, f"prefix is {prefix!r}, and must be some letters, no braces")
    if importlib.util.find_spec("redis") is None:
        raise OpeningError(
            f"the state store {redacted(url)!r} needs the extra {EXTRA!r}: "
            f"pip install 'elman[{EXTRA}]'"
        )
    from elman_server.durable.store.redis import PREFIX, RedisStore

    plain = urlunsplit(parts._replace(query=urlencode(settings)))
    return RedisStore(plain, prefix=PREFIX if prefix is None else prefix)
