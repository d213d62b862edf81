"""Whether checkpoints blend (check)."""
