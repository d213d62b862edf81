"""Fixtures of the storage tests."""

from __future__ import annotations

from tests.support.object_stores import store

__all__ = ["store"]
