"""Tests on a real GPU, `-m gpu`: skipped where there is none; with DNI_REQUIRE_GPU=1 such a skip is a failure.

    test_kernels.py, test_weights.py, test_one_alpha_per_frame.py    need cuda-bindings or pycuda
    test_tensorrt.py                                                 needs TensorRT and polygraphy as well
    test_onnxruntime.py                                              needs onnxruntime-gpu as well
    test_torch.py                                                    needs a PyTorch for CUDA

DNI_FAKE_GPU=1 runs those of the first two lines on the fakes of tests/fakes instead, with fewer frames, so that they are known to
work before a GPU is available (tests/end_to_end/test_gpu_suite_on_fakes.py).
"""
