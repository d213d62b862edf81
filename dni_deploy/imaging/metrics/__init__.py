"""How good a frame is beside its reference, by several measures."""
