"""Machine code as the driver sees it: what it is for, which kernels are in it, and which GPU takes it."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

FAKE_MAGIC = b"\x7fELF fake cubin\n"
EM_CUDA = 190
TEGRA = {(8, 7), (10, 1), (11, 0)}


@dataclass(frozen=True)
class MachineCode:
    """kind: "cubin", "ptx", or "fake" for what the fake nvcc compiled. sha256: of the code as it was passed to the driver.

    capability   what it was compiled for.
    needs        the oldest CUDA of a driver that reads it.
    """

    kind: str
    capability: tuple[int, int]
    kernels: tuple[str, ...]
    needs: tuple[int, int]
    sha256: str

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Tells whether a GPU runs it: PTX on all newer ones, a cubin on the same major version, but not between Tegra and others."""
        if self.kind == "ptx":
            return capability >= self.capability
        (major, minor), (gpu_major, gpu_minor) = self.capability, capability
        return self.capability == capability or (major == gpu_major and minor <= gpu_minor and capability not in TEGRA)


@lru_cache(maxsize=64)
def read(code: bytes) -> MachineCode | None:
    """Reads what a driver is given; None if it is damaged or anything else."""
    digest = sha256(code).hexdigest()
    if code.startswith(FAKE_MAGIC):
        return _read_fake(code[len(FAKE_MAGIC) :], digest)
    if code.startswith(b"\x7fELF"):
        return _read_cubin(code, digest)
    return _read_ptx(code, digest)


def fake_code(architecture: str, kernels: list[str]) -> bytes:
    """Makes what the fake nvcc compiles, with a checksum."""
    text = json.dumps({"arch": architecture, "kernels": kernels}).encode()
    return FAKE_MAGIC + sha256(text).digest() + text


def _read_fake(data: bytes, digest: str) -> MachineCode | None:
    if sha256(data[32:]).digest() != data[:32]:
        return None
    content = json.loads(data[32:])
    return MachineCode("fake", _capability(content["arch"][3:]), tuple(content["kernels"]), (0, 0), digest)


def _read_cubin(code: bytes, digest: str) -> MachineCode | None:
    """Reads an ELF file of 64 bit: the GPU is in its flags, and each kernel has a section .text.NAME."""
    machine, _, _, _, offset, flags, _, _, _, size, count, names = struct.unpack_from("<HIQQQIHHHHHH", code, 18)
    if machine != EM_CUDA or offset + count * size > len(code):
        return None
    sections = [struct.unpack_from("<IIQQQQ", code, offset + index * size) for index in range(count)]
    start, length = sections[names][4:6]
    table = code[start : start + length]
    titles = [table[section[0] : table.index(b"\0", section[0])].decode() for section in sections]
    kernels = tuple(title[len(".text.") :] for title in titles if title.startswith(".text."))
    # The ABI version of CUDA 13 is 8, which no older driver was made for: that one reads it is not promised anywhere.
    return MachineCode("cubin", _capability(str(flags >> 8 & 0xFF)), kernels, (13, 0) if code[8] >= 8 else (0, 0), digest)


def _read_ptx(code: bytes, digest: str) -> MachineCode | None:
    text = code.decode(errors="replace")
    version, target = re.search(r"^\.version (\d+)\.(\d+)$", text, re.M), re.search(r"^\.target sm_(\d+)$", text, re.M)
    if version is None or target is None or not text.endswith("\0"):
        return None
    kernels = tuple(re.findall(r"^\.visible \.entry (\w+)\(", text, re.M))
    needs = (int(version[1]) + 4, int(version[2]))  # PTX 7.0 came with CUDA 11.0, 8.0 with 12.0, 9.0 with 13.0
    return MachineCode("ptx", _capability(target[1]), kernels, needs, digest)


def _capability(digits: str) -> tuple[int, int]:
    return int(digits[:-1]), int(digits[-1])
