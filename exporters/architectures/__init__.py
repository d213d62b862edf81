"""Architectures: the networks that dni-deploy knows, in the order in which a state dict is tried against them.

Each recognises its own by names and shapes alone. No two of them accept the same state dict, with one exception that the
order settles: none so far, and a test keeps it so.
"""

from __future__ import annotations
