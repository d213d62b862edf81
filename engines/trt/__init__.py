"""TensorRT: a plan built once, and its weights refitted from device memory while it runs."""
