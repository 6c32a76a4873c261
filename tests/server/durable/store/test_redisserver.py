"""What becomes of the tests that need a Redis where there is none."""

from pathlib import Path

import pytest

from tests.server.durable.store.redisserver import RedisServer


@pytest.mark.parametrize(
    ("needed", "outcome"),
    [("1", pytest.fail.Exception), ("0", pytest.skip.Exception), ("", pytest.skip.Exception)],
)
def test_without_redis_tests_fail_only_where_it_is_needed(
    needed: str,
    outcome: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ELMAN_TESTS_NEED_REDIS", needed)
    with pytest.raises(outcome, match="not installed"):
        RedisServer(tmp_path).start()
