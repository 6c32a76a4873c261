"""How much memory the process may have."""

from pathlib import Path

import pytest

from elman_server.process import memory


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/pods/mine", "pods/mine/memory.max"),
        ("0::/pods/mine", "pods/memory.max"),
        ("0::/", "memory.max"),
        ("4:memory:/pods/mine", "memory/pods/mine/memory.limit_in_bytes"),
        ("4:memory:/pods/mine", "memory/pods/memory.limit_in_bytes"),
        ("4:memory:/", "memory/memory.limit_in_bytes"),
    ],
)
def test_the_smallest_bound_of_its_control_groups_holds(
    line: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").write_text(f"7:cpu:/elsewhere\n{line}\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("123456789\n")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", (tmp_path, tmp_path / "memory"))
    assert memory.limit() == 123456789


def test_a_control_group_without_a_bound_bounds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", (tmp_path,))
    unbounded = memory.limit()
    monkeypatch.setattr(memory, "_GROUPS", ())
    assert memory.limit() == unbounded
