"""CUDA: context, memory and streams through pycuda, and the kernels that blend a family in device memory."""
