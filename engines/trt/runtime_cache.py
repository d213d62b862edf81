"""Kernels that TensorRT for RTX compiled on this machine, kept for the next time a plan is opened.

The library checks that a cache is for this GPU, driver and version. It is machine code all the same, so it is a derived file.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from dni_deploy.errors import DniError, escape_name
from dni_deploy.utils.derived_file import read_derived_file, write_derived_file
from dni_deploy.utils.hardware import cache_folder

log = logging.getLogger(__name__)


class RuntimeCache:
    """The compiled kernels of one plan, shared by all contexts of an engine.

    Thread safety: one thread at a time; the caller holds the device.
    """

    def __init__(self, plan_key: str) -> None:
        """Looks up the file; nothing is read yet.

        Args:
            plan_key: The plan's key, `PlanHeader.key`.
        """
        folder = cache_folder()
        self._path: Path | None = None if folder is None else folder / "tensorrt-rtx" / f"runtime-{plan_key}.cache"
        self._cache: Any = None
        self._loaded = b""

    def attach(self, config: Any) -> None:
        """Has contexts that are made with this trt.IRuntimeConfig use the cache; the first call reads the file.

        A file that is absent, damaged, for another machine or not to be trusted is passed over.
        """
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._load_file()
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Writes the file where kernels came to it. A failure is no error: they are compiled again next time."""
        if self._cache is None or self._path is None:
            return
        serialized = self._cache.serialize()
        data = b"" if serialized is None else bytes(serialized)
        if not data or data == self._loaded:
            return
        with suppress(OSError, DniError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_derived_file(self._path, data, force=True)
            self._loaded = data

    def close(self) -> None:
        """Saves the cache and drops it, after every context that uses it. Calling it again does nothing."""
        self.save()
        self._cache = None

    def _load_file(self) -> None:
        if self._path is None:
            return
        data = read_derived_file(self._path, "a cache of kernels")
        if data is None:
            return
        if self._cache.deserialize(data):
            self._loaded = data
        else:
            log.info("compiled kernels not used: %s is for another GPU, driver or version", escape_name(self._path))
