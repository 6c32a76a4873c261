"""Slots: which rows of the state arrays belong to whom.

The pool hands out row numbers and knows nothing of what the rows hold; the runner owns the arrays.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slot:
    """A row of the state arrays, together with how often that row was handed out before."""

    index: int
    generation: int


class StaleSlotError(RuntimeError):
    """A slot was freed that its holder no longer owns: a bug in the caller."""


class StatePool:
    """Hands out rows, lowest free row last used first, and checks that each comes back once."""

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
        """Whether the slot is still its holder's."""
        return self._generations[slot.index] == slot.generation
