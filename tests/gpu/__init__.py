"""Tests on a real GPU, `-m gpu`: skipped where there is none, failures then with DNI_REQUIRE_GPU=1.

    test_kernels_there.py, test_weights_there.py, test_tags.py    pycuda and nvcc
    test_tensorrt_there.py                                        TensorRT and polygraphy as well
    test_onnxruntime_there.py                                     onnxruntime-gpu as well
    test_torch_there.py                                           a PyTorch for CUDA

DNI_FAKE_GPU=1 runs those of the first two lines on the fakes of tests/fakes instead, in small: so they are known to run at
all when a GPU is at hand for an hour (tests/end_to_end/test_gpu_suite_on_fakes.py).
"""
