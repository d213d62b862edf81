"""Bench: the ways to change alpha on one machine, timed in one run, interleaved."""
