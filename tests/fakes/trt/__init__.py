"""The parts of the fake TensorRT (tests/fakes/tensorrt.py): one file per job of the real one."""
