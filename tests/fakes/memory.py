"""A fake GPU's allocations, in host memory at real addresses, so that host-compiled kernels can use the pointers.

Fresh and freed memory holds 0xFF, which is NaN as float32 and as float16; freed memory is kept, so that its addresses are not
reused and a late access can be told apart from a wrong one. Guard bands around each allocation detect writes outside of it.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

GUARD, GUARD_BYTE, POISON = 256, 0xA5, 0xFF
ALIGNMENT = 256  # cuMemAlloc promises "suitably aligned for any kind of variable"; drivers give 256 and more
KEPT = 1 << 28
"""Maximum bytes of freed memory that are kept; beyond this the oldest are returned to the system."""


@dataclass
class Allocation:
    """kind: "device" or "page-locked". `memory` has the guard bands around it; `bytes` is what was asked for."""

    address: int
    nbytes: int
    kind: str
    memory: NDArray[np.uint8]
    start: int
    freed: bool = False
    owner: object = field(default=None, repr=False)

    @property
    def bytes(self) -> NDArray[np.uint8]:
        return self.memory[self.start : self.start + self.nbytes]

    def __str__(self) -> str:
        return f"{self.kind} memory of {self.nbytes} bytes at {self.address:#x}"


@dataclass
class Registration:
    """Memory of the host that is page-locked until it is unregistered, and whose owner is NumPy."""

    address: int
    nbytes: int
    freed: bool = False

    def __str__(self) -> str:
        return f"registered memory of {self.nbytes} bytes at {self.address:#x}"


class Memory:
    """The registry. `report` takes one sentence for each violation."""

    def __init__(self, report: Callable[[str], None], total: int = 1 << 32) -> None:
        self.report = report
        self.total = total
        self.used = 0
        self.peak = 0
        self._lock = threading.RLock()
        self._addresses: list[int] = []
        self._by_address: dict[int, Allocation] = {}
        self._kept: deque[Allocation] = deque()
        self._kept_bytes = 0
        self.registered: dict[int, Registration] = {}

    def register(self, address: int, nbytes: int) -> bool:
        """Page-locks memory of the host; False where some of it is."""
        with self._lock:
            if any(one.address < address + nbytes and address < one.address + one.nbytes for one in self.registered.values()):
                return False
            self.registered[address] = Registration(address, nbytes)
            return True

    def unregister(self, address: int) -> bool:
        """Unlocks registered memory; False where none begins there."""
        with self._lock:
            registration = self.registered.pop(address, None)
            if registration is not None:
                registration.freed = True
            return registration is not None

    def registration_of(self, address: int) -> Registration | None:
        """Returns the registration that contains the address."""
        with self._lock:
            return next((one for one in self.registered.values() if one.address <= address < one.address + one.nbytes), None)

    def allocate(self, nbytes: int, kind: str) -> Allocation:
        memory = np.full(nbytes + 2 * GUARD + ALIGNMENT, GUARD_BYTE, np.uint8)
        base = memory.ctypes.data
        address = -(-(base + GUARD) // ALIGNMENT) * ALIGNMENT
        new_allocation = Allocation(address, nbytes, kind, memory, address - base)
        new_allocation.bytes[:] = POISON
        with self._lock:
            insort(self._addresses, address)
            self._by_address[address] = new_allocation
            if kind == "device":
                self.used += nbytes
                self.peak = max(self.peak, self.used)
        return new_allocation

    def free(self, allocation: Allocation) -> None:
        self._look_at_guards(allocation)
        with self._lock:
            allocation.freed = True
            allocation.bytes[:] = POISON
            if allocation.kind == "device":
                self.used -= allocation.nbytes
            self._kept.append(allocation)
            self._kept_bytes += allocation.nbytes
            while self._kept_bytes > KEPT:
                oldest = self._kept.popleft()
                self._kept_bytes -= oldest.nbytes
                self._addresses.remove(oldest.address)
                del self._by_address[oldest.address]

    def find(self, address: int) -> Allocation | None:
        """Returns the allocation, live or freed, that contains the address."""
        with self._lock:
            place = bisect_right(self._addresses, address) - 1
            if place < 0:
                return None
            found = self._by_address[self._addresses[place]]
        return found if address < found.address + max(found.nbytes, 1) else None

    def view(self, address: int, nbytes: int, what: str, kind: str = "device") -> NDArray[np.uint8] | None:
        """Returns the bytes there, or None after a report: not ours, freed, or beyond the end. `what` starts the sentence."""
        if nbytes == 0:
            return np.empty(0, np.uint8)
        found = self.find(address)
        if found is None or found.kind != kind:
            self.report(f"{what}: {nbytes} bytes at {address:#x}, which is no {kind} memory")
        elif found.freed:
            self.report(f"{what}: uses {found} after it was freed")
        elif address + nbytes > found.address + found.nbytes:
            self.report(f"{what}: {nbytes} bytes from {address - found.address} on in {found} go beyond its end")
        else:
            begin = found.start + address - found.address
            return found.memory[begin : begin + nbytes]
        return None

    def look_for_freed(self, words: NDArray[np.uint64], what: str) -> None:
        """Reports each word that points into freed device memory, for arguments whose layout only the kernel knows."""
        for word in words.tolist():
            found = self.find(word) if word else None
            if found is not None and found.freed:
                self.report(f"{what}: uses {found} after it was freed")

    def look_at_guards(self) -> None:
        for allocation in self._by_address.values():
            if not allocation.freed:
                self._look_at_guards(allocation)

    def living(self, kind: str | None = None) -> list[Allocation | Registration]:
        registered = list(self.registered.values()) if kind in (None, "registered") else []
        return registered + [one for one in self._by_address.values() if not one.freed and kind in (None, one.kind)]

    def _look_at_guards(self, allocation: Allocation) -> None:
        before = allocation.memory[allocation.start - GUARD : allocation.start]
        after = allocation.memory[allocation.start + allocation.nbytes :][:GUARD]
        if not ((before == GUARD_BYTE).all() and (after == GUARD_BYTE).all()):
            self.report(f"something wrote outside {allocation}")
            before[:] = GUARD_BYTE
            after[:] = GUARD_BYTE
