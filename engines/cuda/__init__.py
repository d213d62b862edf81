"""CUDA: context, memory and streams through pycuda or cuda-bindings, and the kernels that blend a family in device memory."""
