"""Rewrites of a bundle's graph for ONNX Runtime on the CPU alone; `passes.py` has their order."""
