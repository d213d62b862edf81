"""The search for the best alpha (tune, slider)."""
