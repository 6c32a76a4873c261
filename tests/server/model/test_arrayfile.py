"""A .npy file is read as it is, or refused, whatever it holds."""

import io
from pathlib import Path

import numpy as np
import pytest

from elman_server.model.arrayfile import ArrayFileError, read


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def headed(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)


BROKEN = {
    "nothing": b"",
    "words": b"a picture of a cat",
    "the beginning of an archive": b"PK\x03\x04 and no more",
    "a header cut off": b"\x93NUMPY\x01\x00v\x00{'descr'",
    "a header of a language that is none": headed("((((1,)"),
    "8 TiB": headed("(1099511627776,)"),
    "more than there are addresses": headed("(100000000000000000000000000000,)"),
    "a size that is none": headed("(True,)"),
    "fewer values than it says": npy(np.zeros(9))[:-8],
    "objects": npy(np.array([{"run": "me"}], object)),
}


def test_an_array_is_read_as_np_save_wrote_it(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    (tmp_path / "x.npy").write_bytes(npy(array))
    found = read(tmp_path / "x.npy")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_is_no_array_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ArrayFileError):
        read(tmp_path / "x.npy")


def test_several_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", a=[1], b=[2])
    with pytest.raises(ArrayFileError):
        read(tmp_path / "arrays.npz")


def test_a_file_that_is_not_there_is_the_file_systems_to_tell(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "x.npy")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
