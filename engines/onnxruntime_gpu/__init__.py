"""ONNX Runtime on the GPU: the weights are graph inputs, bound to memory that the blend writes."""
