"""Lowering: rewrites of a bundle's graph that more than one engine wants; an engine's own lie in its folder.

Each pass is one file with one function `rewrite(draft)`.
"""
