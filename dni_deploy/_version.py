"""The version of dni-deploy, where every module can read it."""

from __future__ import annotations

__version__ = "0.2.0"
