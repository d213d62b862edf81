"""The ways to change alpha on one machine, timed in one interleaved run."""
