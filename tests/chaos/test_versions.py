"""Replicas that move to another version of a model, one after another, under load.

pytest -m slow -s tests/chaos/test_versions.py
"""

import asyncio
from pathlib import Path
from shutil import copytree
from time import monotonic

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from elman import aio
from elman_server.model import modelfile
from elman_server.model.repository import BUNDLED
from elman_server.model.spec import FINGERPRINT_KEY, SPEC_KEY
from tests.chaos.fleet import Fleet
from tests.chaos.load import Load, p99, quantiles
from tests.chaos.shells import Connect

long = pytest.mark.slow
OLD = BUNDLED / "sentiment/1/model.onnx"
MOVE_SECONDS = 5.0
"""What p99 of a session's longest pause may be, on a busy machine."""


def _newer(path: Path) -> Path:
    """The same network with somewhat other weights."""
    model = onnx.load(str(OLD))
    rng = np.random.default_rng(5)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            noise = 1 + 0.05 * rng.standard_normal(values.shape)
            changed = (values * noise).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    text = next(entry.value for entry in model.metadata_props if entry.key == SPEC_KEY)
    # Without its proof, which was of other weights.
    del model.metadata_props[:]
    fingerprint = modelfile.fingerprint(model.SerializeToString(), text, None)
    onnx.helper.set_model_props(model, {SPEC_KEY: text, FINGERPRINT_KEY: fingerprint})
    path.parent.mkdir(parents=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    copytree(BUNDLED / "sentiment", tmp_path / "old/sentiment")
    return tmp_path / "old"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """With the newer version alone."""
    _newer(tmp_path / "new/sentiment/2/model.onnx")
    return tmp_path / "new"


@pytest.fixture
def both(old: Path, new: Path, tmp_path: Path) -> Path:
    copytree(old, tmp_path / "both")
    copytree(new, tmp_path / "both", dirs_exist_ok=True)
    return tmp_path / "both"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sessions", [20, pytest.param(500, marks=long)], ids=["short", "long"])
async def test_sessions_stay_on_their_version_while_the_replicas_move_to_a_newer(
    old: Path, new: Path, both: Path, connect: Connect, sessions: int
) -> None:
    with Fleet(2, str(old)) as fleet:
        async with (
            connect(fleet.targets) as client,
            connect(fleet.targets) as later,
            Load(client, sessions, seed=51) as load,
        ):
            begun = monotonic()
            fleet.arguments = (str(both),)
            for number in range(2):
                await asyncio.to_thread(fleet.terminate, number)
                await asyncio.to_thread(fleet.start, number)
                await load.run(0.3)
            path = new / "sentiment/2/model.onnx"
            async with Load(later, sessions, seed=52, path=path) as newer:
                await newer.run(0.3)
                await load.run(0.1)
            ended = monotonic()
    load.check()
    newer.check()
    pauses = load.pauses([begun], within=ended - begun)
    print(f"\n{sessions} sessions, {load.answered} elements answered")
    print(quantiles("the longest pause of each", pauses))
    assert p99(pauses) < MOVE_SECONDS


@pytest.mark.timeout(300)
@long
@pytest.mark.parametrize("form", ["a list", "a name"])
async def test_sessions_find_the_one_replica_that_still_has_their_version(
    old: Path, new: Path, form: str
) -> None:
    """All but two have the newer one alone; of those two, that is killed which has the sessions."""
    count = 5
    with Fleet(count, str(old)) as fleet:
        targets = fleet.targets if form == "a list" else "ipv4:" + ",".join(fleet.targets)
        async with aio.connect(targets) as client, Load(client, 20, seed=53) as load:
            [busy] = await asyncio.to_thread(fleet.busy)
            others = [number for number in range(count) if number != busy]
            fleet.arguments = (str(new),)
            await asyncio.gather(*(_replace(fleet, number) for number in others[1:]))
            await load.run(0.2)
            moment = monotonic()
            await asyncio.to_thread(fleet.kill, busy)
            wanted = load.answered + 200
            while load.answered < wanted:
                assert monotonic() < moment + 60
                await load.run(0.1)
    load.check()
    print(quantiles("\nto the next prediction", load.pauses([moment], within=60)))


async def _replace(fleet: Fleet, number: int) -> None:
    await asyncio.to_thread(fleet.terminate, number)
    await asyncio.to_thread(fleet.start, number)
