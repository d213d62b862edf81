"""Image files, frames, tiles, noise, image metrics."""
