"""A GPU for machines without one: tensors on the device "meta" that compute on the CPU, and refuse to meet the CPU's as CUDA's do.

What is computed is the CPU's own, so that a training there has to come out as on the CPU, to the last bits.

    with pretended_gpu() as gpu:
        fit(..., device=gpu)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

CPU, GPU = torch.device("cpu"), torch.device("meta")
CROSSING = ("_to_copy", "copy_")  # operators whose tensors may be in two places
PICKING = ("index", "index_put", "index_put_")  # ... and whose indices may be


def there(device: Any) -> bool:
    return device is not None and torch.device(device) == GPU


class Remote(torch.Tensor):
    """What is on the GPU; `near` is where it truly is."""

    near: torch.Tensor
    is_meta = property(lambda self: False)  # or nothing would be loaded into a module of them
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Remote:
        near = near.resolve_conj().resolve_neg()
        made: Remote = torch.Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=GPU
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def near(x: Any) -> Any:
    return x.near if isinstance(x, Remote) else x


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """One operator; RuntimeError where tensors that are not single numbers are in two places, or the generator in another."""
    name = func._schema.name.split("::")[1]
    tensors: list[torch.Tensor] = []
    tree_map(lambda x: tensors.append(x) if isinstance(x, torch.Tensor) else None, (args, kwargs))
    remote = any(isinstance(x, Remote) for x in tensors)
    strange = [x for x in tensors if not isinstance(x, Remote) and x.dim()]
    allowed = name in CROSSING or (name in PICKING and isinstance(args[0], Remote))
    if remote and strange and not allowed:
        raise RuntimeError(f"expected all tensors on one device: {name}, {[tuple(x.shape) for x in strange]}")
    device = kwargs.get("device")
    if kwargs.get("generator") is not None and (remote or there(device)):
        raise RuntimeError(f"expected a generator of the device: {name}")
    made = func(*tree_map(near, args), **tree_map(near, kwargs | ({"device": CPU} if there(device) else {})))
    if name.endswith("_"):
        return args[0]
    if name == "_local_scalar_dense" or not (remote if device is None else there(device)):
        return made
    return tree_map(lambda x: Remote(x) if isinstance(x, torch.Tensor) and not isinstance(x, Remote) else x, made)


class ToGPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return Remote(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return near(gradient)


class FromGPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> torch.Tensor:
        return x.near.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return Remote(gradient)


def moved(x: torch.Tensor, device: Any) -> Any:
    if there(device) == isinstance(x, Remote):
        return x
    return (ToGPU if there(device) else FromGPU).apply(x)


def spectrum(
    input: torch.Tensor, n_fft: int, hop_length: int, *, window: torch.Tensor, center: bool = True, **_: Any
) -> torch.Tensor:
    """`torch.stft` for windows of the transform's length: its own changes shapes in place, which a `Remote` does not follow."""
    if center:
        input = torch.nn.functional.pad(input, (n_fft // 2, n_fft // 2), mode="reflect")
    return torch.fft.rfft(input.unfold(-1, n_fft, hop_length) * window).transpose(-1, -2)


class Functions(TorchFunctionMode):
    """What moves tensors or makes them on the GPU: PyTorch would ask the device for it before any operator is called."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name == "to":
            rest = [kwargs.pop("device", None), *args[1:]]
            likes = [x for x in rest if isinstance(x, torch.Tensor)]
            devices = [x for x in rest if isinstance(x, (torch.device, str))] + [x.device for x in likes]
            dtypes = [x for x in rest if isinstance(x, torch.dtype)] + [x.dtype for x in likes]
            x = moved(args[0], devices[0]) if devices else args[0]
            dtype = kwargs.get("dtype") or (dtypes[0] if dtypes else None)
            return func(x, dtype) if dtype else x
        if name in ("cpu", "numpy") and isinstance(args[0], Remote):
            if name == "numpy":
                raise TypeError("can't convert a tensor on the GPU to numpy")
            return moved(args[0], CPU)
        if name == "stft" and isinstance(args[0], Remote):
            return spectrum(*args, **kwargs)
        if there(kwargs.get("device")):
            return moved(func(*args, **kwargs | {"device": CPU}), GPU)
        return func(*args, **kwargs)


class Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """The device; what is saved meanwhile is saved as a GPU's tensors are, for whoever reads it on a CPU."""
    save, before = torch.save, torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with mock.patch("torch.save", lambda state, *rest: save(tree_map(near, state), *rest)), Functions(), Operators():
            yield GPU
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
