"""The ONNX opset of a bundle's graph."""

MIN_OPSET = 17
"""TensorRT 8.6 reads opset 17; nothing that the supported engines need is older."""
