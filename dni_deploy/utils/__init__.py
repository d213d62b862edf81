"""Atomic writes, optional packages, hardware facts, progress, ONNX initializers; nothing that knows what a blend is."""
