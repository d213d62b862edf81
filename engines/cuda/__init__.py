"""CUDA: the GPU's context, memory and streams through pycuda, and the kernel that blends a family in device memory."""
