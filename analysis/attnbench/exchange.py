# SPDX-License-Identifier: Apache-2.0
"""Other libraries' arrays in and out, without a copy: torch tensors, and whatever speaks DLPack."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


def exchanged(function: Function) -> Function:
    """Lets a function on NumPy arrays take tensors of other libraries, on the same memory.

    Where the first argument is a torch tensor the arrays returned become torch tensors, on the
    memory that the function returned. CPU tensors only, and outside autograd: ValueError.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not any(_foreign(value) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        as_torch = _is_torch(next(iter(given.values())))
        for name, value in given.items():
            if _foreign(value):
                given[name] = _array(name, value)
        result = function(*bound.args, **bound.kwargs)
        if not as_torch:
            return result
        return tuple(map(_tensor, result)) if isinstance(result, tuple) else _tensor(result)

    return wrapped  # type: ignore[return-value]


def _foreign(value: Any) -> bool:
    return hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray | np.generic)


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _array(name: str, value: Any) -> np.ndarray:
    if _is_torch(value):
        if value.requires_grad:
            raise ValueError(f"{name}: requires grad; gradients are not computed, detach() it")
        if value.device.type != "cpu":
            raise ValueError(f"{name}: must be on the CPU, is on {value.device}")
        if str(value.dtype) == "torch.bfloat16":  # unknown to NumPy and to its DLPack
            import ml_dtypes
            import torch

            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()
    try:
        return np.from_dlpack(value)
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        if hasattr(value, "__array__"):
            return np.asarray(value)
        raise ValueError(f"{name}: cannot be read through DLPack: {error}") from None


def _tensor(array: np.ndarray) -> Any:
    import torch

    if array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
