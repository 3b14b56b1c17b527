# SPDX-License-Identifier: Apache-2.0
"""Tensors of other libraries go in and out on the same memory, and the GIL is free meanwhile."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import attnbench
from attnbench import exchange

pytest.importorskip("attnbench._core")
torch = pytest.importorskip("torch")


@pytest.fixture
def tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 3, 17, 16, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_tensors_in_and_out_agree_with_torch(
    tensors: list[torch.Tensor], dtype: torch.dtype
) -> None:
    q, k, v = (t.to(dtype) for t in tensors)
    out = attnbench.attention(q, k, v, kernel="flash", causal=True)
    assert isinstance(out, torch.Tensor) and out.dtype == dtype
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *(t.to(dtype).double() for t in tensors), is_causal=True
    )
    assert (out.double() - wanted).abs().max() < (1e-5 if dtype == torch.float32 else 3e-2)


def test_nothing_is_copied_on_the_way_in_or_out(tensors: list[torch.Tensor]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        tensor = tensors[0].to(dtype)
        array = exchange._array("q", tensor)
        assert array.ctypes.data == tensor.data_ptr() and array.shape == tuple(tensor.shape)
        assert exchange._tensor(array).data_ptr() == tensor.data_ptr()
    strided = tensors[0].transpose(1, 2)
    assert exchange._array("q", strided).strides == tuple(4 * s for s in strided.stride())


def test_pairs_come_back_as_pairs_and_arrays_stay_arrays(tensors: list[torch.Tensor]) -> None:
    q, k, v = tensors
    out, lse = attnbench.attention(q, k, v, return_lse=True)
    assert isinstance(out, torch.Tensor) and isinstance(lse, torch.Tensor)
    arrays = [t.numpy() for t in tensors]
    plain = attnbench.attention(*arrays)
    assert isinstance(plain, np.ndarray) and np.array_equal(plain, out.numpy())
    weights = attnbench.attention_weights(q, k=k)
    assert isinstance(weights, torch.Tensor) and torch.allclose(
        weights.sum(-1), torch.ones(2, 3, 17)
    )


def test_whatever_speaks_dlpack_is_read_in_place() -> None:
    class Other:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **arguments: object) -> object:
            return self.array.__dlpack__(**arguments)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.array.__dlpack_device__()

    array = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
    other = Other(array)
    assert exchange._array("q", other).ctypes.data == array.ctypes.data
    out = attnbench.attention(other, other, other)
    assert isinstance(out, np.ndarray)
    assert np.array_equal(out, attnbench.attention(array, array, array))


def test_a_tensor_that_needs_a_gradient_is_refused_by_name(tensors: list[torch.Tensor]) -> None:
    q, k, v = tensors
    with pytest.raises(ValueError, match=r"^k: requires grad"):
        attnbench.attention(q, k.requires_grad_(), v)


def test_python_goes_on_while_a_kernel_runs() -> None:
    """A thread that only counts gets nowhere as long as another holds the GIL."""
    count, stop = 0, threading.Event()

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1

    q = np.zeros((4, 1024, 64), np.float32)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        before = count
        attnbench.attention(q, q, q, kernel="naive")
        during = count - before
    finally:
        stop.set()
        thread.join()
    assert during > 10_000
