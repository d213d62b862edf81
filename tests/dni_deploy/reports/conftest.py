"""The fixture of the tests that look at pages in a browser."""

from __future__ import annotations

from tests.support.browser import browser

__all__ = ["browser"]
