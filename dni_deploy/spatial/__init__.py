"""An alpha for each pixel of an image or a video."""
