import pytest
import torch

from rdbench.rd.memory import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("the GPU is full"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
    ids=["torch", "CUDA", "cuBLAS", "cuDNN 8", "cuDNN 9"],
)
def test_every_library_has_its_own_words_for_no_memory(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("said", ["an illegal memory access was encountered", "CUDNN_STATUS_NOT_SUPPORTED"])
def test_other_failures_are_not_for_memory(said: str) -> None:
    assert not is_out_of_memory(RuntimeError(f"CUDA error: {said}"))
