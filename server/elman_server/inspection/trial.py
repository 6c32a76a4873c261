"""Trial of a step model for `elman inspect`, as a server loads and probes the model.

ONNX Runtime is imported only when a model is tried out.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from elman_server.config import ServerConfig
from elman_server.engine.limits import Chunking
from elman_server.inspection.horizon.measure import StepSize
from elman_server.model.repository import ModelSource

if TYPE_CHECKING:
    from elman_server.runner.model import Array, StepModel
    from elman_server.runner.probe import Probe

NO_RUNTIME = "needs the server extra: pip install 'elman[server]'"

_DEFAULTS = ServerConfig(demo=True)


def runtime_is_available() -> bool:
    return find_spec("onnxruntime") is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Results of loading a model with a server's default settings."""

    model: "StepModel"
    found: "Probe"
    rows: int
    """Largest batch of the probe."""

    @property
    def is_batched(self) -> bool:
        return not self.found.batch_failure and not self.found.dependent_rows

    @property
    def batching(self) -> str:
        """Describes, for people, whether sessions may share a step."""
        if self.found.batch_failure:
            return f"served unbatched, as it takes one row at a time: {self.found.batch_failure}"
        if self.found.dependent_rows:
            return (
                f"served unbatched, as rows affect one another: {self.found.dependent_rows}; "
                "sessions would leak into one another"
            )
        return (
            f"rows are independent: in batches of up to {self.rows} each gives, to the bit, what "
            "it gives alone"
        )

    @property
    def chunking(self) -> str:
        """Describes, for people, how many elements of a session may go through one step."""
        most = f"up to {self.longest_chunk} elements of a session in one step"
        if self.found.chunking is Chunking.RAGGED:
            return f"ragged: {most}, each row its own number, with the same bits as one by one"
        if self.found.chunking is Chunking.EQUAL:
            return f"equal: {most}, as many for each row, with the same bits as one by one"
        if self.model.spec.time_axis:
            return "single: one element a step, as chunks give other bits than one by one"
        return "single: one element a step"

    @property
    def longest_chunk(self) -> int:
        from elman_server.serving.loading.bounds import longest_chunk

        return longest_chunk(self.model.spec, _DEFAULTS)

    @property
    def step_size(self) -> StepSize:
        single = self.found.chunking is Chunking.SINGLE
        return StepSize(
            rows=self.rows if self.is_batched else 1,
            chunk=1 if single else self.longest_chunk,
        )

    def contexts(self, count: int) -> Mapping[str, "Array"]:
        """Random values of each context by name, `[count, *shape]`; empty without contexts."""
        from elman_server.runner.rows import random_contexts

        return random_contexts(self.model.spec, count)

    def document(self) -> dict[str, object]:
        """Returns the results for scripts."""
        return {
            "batched": self.is_batched,
            "dependent_rows": self.found.dependent_rows,
            "batch_failure": self.found.batch_failure,
            "max_batch_size": self.step_size.rows,
            "chunking": self.found.chunking.value,
            "max_chunk": self.step_size.chunk,
        }


def try_out(path: Path) -> Trial:
    """Loads a model as a server does: first in a separate process, then in this process. Raises
    `ModelLoadError` if the model can't be served."""
    from elman_server.serving.loading.bounds import most_rows
    from elman_server.serving.loading.children import Children
    from elman_server.serving.loading.loaded import LoadedModel
    from elman_server.serving.loading.loader import Loader

    async def load() -> LoadedModel:
        with Children() as children:
            return await Loader(children).load(source, _DEFAULTS)

    source = ModelSource(name="model", version="1", path=path)
    loaded = asyncio.run(load())
    return Trial(
        model=loaded.model, found=loaded.probe, rows=most_rows(loaded.file.spec, _DEFAULTS)
    )
