"""Live control: one cell that holds the wanted alpha, and what feeds it: OSC, MIDI, lines, HTTP."""

from __future__ import annotations
