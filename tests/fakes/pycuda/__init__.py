"""The parts of the fake pycuda.driver (tests/fakes/pycuda_driver.py): one file per kind of thing that the real one has."""
