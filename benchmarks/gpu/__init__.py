"""The GPU benchmark: the blend kernel, the engines' roads and PyTorch's, timed by the GPU's own events."""
