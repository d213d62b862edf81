"""Frames in, frames out, and the alpha they are rendered with."""
