"""Models are found where they lie, whatever else lies around."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from elman_server.errors import ModelLoadError
from elman_server.model.repository import ModelRepository, ModelSource, find


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def found(path: Path) -> list[tuple[str, str]]:
    return [(source.name, source.version) for source in ModelRepository(path).sources()]


def test_every_version_of_every_model_is_found_by_name_then_number(tmp_path: Path) -> None:
    touch(tmp_path, "b/10/model.onnx", "b/9/model.onnx", "b/1/model.onnx", "a/2/model.onnx")
    assert found(tmp_path) == [("a", "2"), ("b", "1"), ("b", "9"), ("b", "10")]


def test_a_source_knows_its_file(tmp_path: Path) -> None:
    [source] = ModelRepository(touch(tmp_path, "a/1/model.onnx")).sources()
    assert source.path == tmp_path / "a" / "1" / "model.onnx"


@pytest.mark.parametrize(
    "odd",
    [
        "a/0/model.onnx",
        "a/01/model.onnx",
        "a/-1/model.onnx",
        "a/latest/model.onnx",
        "a/1.5/model.onnx",
        "a/٣/model.onnx",
        ".hidden/1/model.onnx",
        "with space/1/model.onnx",
        "a/model.onnx",
        "a/1/other.onnx",
        "a/1/nested/model.onnx",
        "model.onnx",
        "README.md",
    ],
)
def test_what_is_no_model_is_passed_over(odd: str, tmp_path: Path) -> None:
    assert found(touch(tmp_path, "good/1/model.onnx", odd)) == [("good", "1")]


def test_an_empty_folder_is_refused_with_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        found(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no models; they lie in it as NAME/VERSION/model.onnx, VERSION a positive "
        "number"
    )


def test_a_single_file_is_version_1_of_a_model_of_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "my-model.v2.onnx")
    assert found(tmp_path / "my-model.v2.onnx") == [("my-model.v2", "1")]


def test_a_single_file_of_a_repository_keeps_its_name_and_version(tmp_path: Path) -> None:
    touch(tmp_path, "a/12/model.onnx")
    assert found(tmp_path / "a" / "12" / "model.onnx") == [("a", "12")]


def test_a_relative_path_to_a_file_of_a_repository_keeps_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/12/model.onnx")
    monkeypatch.chdir(tmp_path / "a" / "12")
    assert found(Path("model.onnx")) == [("a", "12")]


def test_a_file_in_the_root_folder_is_a_model_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # As it may be mounted into a container.
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert found(Path("/model.onnx")) == [("model", "1")]


def test_a_file_whose_name_is_no_models_name_is_refused(tmp_path: Path) -> None:
    path = touch(tmp_path, "-x.onnx") / "-x.onnx"
    with pytest.raises(ModelLoadError, match="'-x' is no name for a model; allowed are letters"):
        found(path)


@pytest.mark.parametrize(
    ("name", "reason"), [("nowhere", "no such file or folder"), ("x" * 300, "File name too long")]
)
def test_a_path_that_is_not_there_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        ModelRepository(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: {reason}"


# While files come and go.


def only(root: Path) -> ModelSource:
    [source] = ModelRepository(root).sources()
    return source


def test_what_came_and_what_went_is_seen(tmp_path: Path) -> None:
    repository = ModelRepository(touch(tmp_path, "a/1/model.onnx"))
    touch(tmp_path, "a/2/model.onnx", "b/1/weights.bin")
    assert [source.version for source in repository.sources()] == ["1", "2"]
    shutil.rmtree(tmp_path / "a/1")
    assert [source.version for source in repository.sources()] == ["2"]


@pytest.mark.parametrize("gone", ["a", "a/1"])
def test_a_folder_that_goes_while_it_is_looked_into_has_nothing(
    gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1/model.onnx", "b/1/model.onnx")
    list_ = os.listdir

    def listed(folder: Path) -> list[str]:
        names = list_(folder)
        if Path(gone).parent == folder.relative_to(tmp_path):
            shutil.rmtree(tmp_path / gone)
        return names

    monkeypatch.setattr(os, "listdir", listed)
    assert found(tmp_path) == [("b", "1")]


def test_a_repository_that_can_not_be_read_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(folder: Path) -> list[str]:
        raise OSError(116, "Stale file handle")

    repository = ModelRepository(touch(tmp_path, "a/1/model.onnx"))
    monkeypatch.setattr(os, "listdir", stale)
    with pytest.raises(ModelLoadError, match=r"Stale file handle$"):
        repository.sources()


def test_a_version_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for place in "xy":
        touch(tmp_path, f"{place}/a/1/model.onnx")
    with pytest.raises(ModelLoadError, match=r"^model 'a' version 1 is there twice: .*/x/a/.*/y/a"):
        find([tmp_path / "x", tmp_path / "y"])


# Stamps.


def test_a_stamp_lasts_as_long_as_nobody_touches_the_files(tmp_path: Path) -> None:
    source = only(touch(tmp_path, "a/1/model.onnx"))
    before = source.stamp()
    touch(tmp_path, "a/2/model.onnx", "b/1/model.onnx")
    assert source.stamp() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"longer"),
        lambda path: path.with_name("weights.bin").touch(),
        lambda path: path.unlink(),
        lambda path: shutil.rmtree(path.parent),
    ],
    ids=["contents", "a file beside it", "no file", "no folder"],
)
def test_a_stamp_changes_with_the_files(change: Any, tmp_path: Path) -> None:
    source = only(touch(tmp_path, "a/1/model.onnx"))
    before = source.stamp()
    change(source.path)
    assert source.stamp() != before


def test_a_file_of_the_same_size_and_time_is_another_one(tmp_path: Path) -> None:
    """As archives and copies that keep times make them."""
    source = only(touch(tmp_path, "a/1/model.onnx"))
    before, times = source.stamp(), source.path.stat()
    other = touch(tmp_path, "other") / "other"
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(source.path)
    assert source.stamp() != before


def test_what_lies_beside_a_single_file_is_not_its_own(tmp_path: Path) -> None:
    source = only(touch(tmp_path, "counter.onnx") / "counter.onnx")
    before = source.stamp()
    touch(tmp_path, "other.onnx")
    assert source.stamp() == before


def test_a_link_to_nowhere_does_no_harm(tmp_path: Path) -> None:
    source = only(touch(tmp_path, "a/1/model.onnx"))
    before = source.stamp()
    (source.path.parent / "link").symlink_to("nowhere")
    assert source.stamp() == before
