"""The picture of a horizon can be read anywhere, and costs nothing until it is drawn."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from elman_server.inspection.horizon.plot import draw

CURVES = {"next": [0.5**lag for lag in range(20)], "level": [1.0, *[0.0] * 19]}


def words(path: Path) -> set[str | None]:
    root = ElementTree.parse(path).getroot()
    return {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}


def test_an_svg_holds_its_words_as_text(tmp_path: Path) -> None:
    draw(tmp_path / "a.svg", CURVES, "letters, on random input")
    assert {"next", "level", "letters, on random input", "1 %", "16"} <= words(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size < 40_000


def test_names_of_any_kind_are_shown_as_they_are(tmp_path: Path) -> None:
    names = ["a$_$", "_y", "$x$ and $", r"\alpha_1"]
    draw(tmp_path / "a.svg", {name: [1.0, 0.5] for name in names}, "$a$_$/model.onnx")
    assert {*names, "$a$_$/model.onnx"} <= words(tmp_path / "a.svg")


def test_the_same_data_make_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(tmp_path / name, CURVES, "letters")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_png_is_transparent_with_ink_for_light_and_dark_pages(tmp_path: Path) -> None:
    from matplotlib.image import imread

    draw(tmp_path / "a.png", CURVES, "letters")
    image = imread(tmp_path / "a.png")
    assert image.shape[2] == 4
    assert (image[..., 3] == 0).mean() > 0.7
    ink = image[image[..., 3] == 1][:, :3]
    assert ink.size
    # Neither near black nor near white.
    brightness = ink @ np.array([0.2126, 0.7152, 0.0722])
    assert brightness.min() > 0.2 and brightness.max() < 0.8


@pytest.mark.parametrize("curve", [[1.0, 0.0], [0.0] * 5, [1.0, 40.0, 1e-9]])
def test_odd_curves_are_drawn_without_a_warning(curve: list[float], tmp_path: Path) -> None:
    draw(tmp_path / "a.svg", {"y": curve}, "odd")
    ElementTree.parse(tmp_path / "a.svg")


def test_a_picture_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        draw(tmp_path / "nowhere" / "a.svg", CURVES, "letters")


def test_matplotlib_is_loaded_for_drawing_alone() -> None:
    script = (
        "import elman_server.cli.inspect, elman_server.inspection.horizon.plot, sys\n"
        "print({'matplotlib', 'onnxruntime', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "set()\n"
