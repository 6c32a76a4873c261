"""Control groups: processes that get so much memory and no more, as containers do."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from tests import needs
from tests.waiting import until

_V2 = Path("/sys/fs/cgroup/cgroup.controllers")
_V1 = Path("/sys/fs/cgroup/memory")


class MemoryGroup:
    """What runs in it is killed when it takes more than so many bytes together."""

    def __init__(self, name: str, nbytes: int) -> None:
        v1 = _V1.is_dir()
        self._folder = (_V1 if v1 else _V2.parent) / f"elman-tests-{os.getpid()}-{name}"
        self._limit = "memory.limit_in_bytes" if v1 else "memory.max"
        self._nbytes = nbytes

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir()
        except OSError as error:
            needs.missing("cgroup", f"no control group can be made here: {error}")
        try:
            (self._folder / self._limit).write_text(str(self._nbytes))
        except OSError as error:
            self._folder.rmdir()
            needs.missing("cgroup", f"control groups have no limit of memory here: {error}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """All that ran in it has ended, or ends now."""
        until(self._remove)

    def _remove(self) -> bool:
        try:
            self._folder.rmdir()
        except OSError:
            return False
        return True

    @property
    def command(self) -> list[str]:
        """A command that puts itself into it, and becomes the one that follows."""
        return ["sh", "-c", f'echo $$ > {self._folder}/cgroup.procs && exec "$@"', "sh"]
