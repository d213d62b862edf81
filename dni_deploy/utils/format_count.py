"""A number with its noun, for people."""

from __future__ import annotations


def format_count(number: int, noun: str) -> str:
    """Formats a number with its noun: "1 image", "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
