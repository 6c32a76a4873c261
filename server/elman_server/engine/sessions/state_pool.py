"""Slots: the owners of rows in the state arrays.

The pool hands out row numbers and does not know the rows' contents. The runner owns the arrays.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slot:
    """A row of the state arrays, with the number of earlier owners of the row."""

    index: int
    generation: int


class StaleSlotError(RuntimeError):
    """A caller freed a slot after losing its ownership: a bug in the caller."""


class StatePool:
    """Hands out rows, last freed row first, and checks that each row comes back once."""

    def __init__(self) -> None:
        self._generations: list[int] = []
        self._free: list[int] = []

    @property
    def used(self) -> int:
        return len(self._generations) - len(self._free)

    def allocate(self) -> Slot:
        if self._free:
            index = self._free.pop()
        else:
            index = len(self._generations)
            self._generations.append(0)
        return Slot(index, self._generations[index])

    def free(self, slot: Slot) -> None:
        if not self.owns(slot):
            raise StaleSlotError(f"{slot} was freed before")
        self._generations[slot.index] += 1
        self._free.append(slot.index)

    def owns(self, slot: Slot) -> bool:
        """Whether the holder still owns the slot."""
        return self._generations[slot.index] == slot.generation
