"""The GPU benchmark: the blend kernel, the engines and PyTorch, timed with CUDA events."""
