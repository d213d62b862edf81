"""From PyTorch checkpoints to one ONNX graph with named weights; needs torch."""

DISTRIBUTION = "dni-deploy"
