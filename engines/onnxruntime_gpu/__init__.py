"""ONNX Runtime on the GPU: weights are inputs of the graph, bound to the memory into which they are blended."""
