"""ONNX Runtime on the CPU: weights are updated in place at full speed, or a session is rebuilt where a graph forbids that."""
