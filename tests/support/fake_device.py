"""An accelerator that is not there: its tensors hold their values on the CPU and refuse what CUDA refuses.

Inside :func:`fake_device` every ``device=NAME`` and ``.to(NAME)`` gives a :class:`DeviceTensor`. The CPU's kernels run
on the values, autograd included, so losses and gradients are those of the CPU; an operation on tensors of both sides
raises as on CUDA. The device calls itself ``meta``, the only one besides the CPU that every build of torch knows well
enough for a backward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nested._internal.nested_tensor import NestedTensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"
aten, c10d = torch.ops.aten, torch.ops.c10d

CROSSES = {aten.copy_.default, aten._to_copy.default}
"""Operations between the two sides."""
HOST_INDICES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
"""Operations on a tensor of the device that take indices on the host: CUDA copies them over."""
WAITS = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "nonzero",
    aten.equal.default: "equal",
}
"""Operations for whose result the host waits, besides copies to the host."""


class DeviceTensor(torch.Tensor):
    """A tensor on the fake device; ``host`` holds its values."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> DeviceTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(NAME),
        )
        tensor.host = host
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented  # FakeDevice does it

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.host!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()


class FakeDevice(TorchDispatchMode):
    """Runs operations that touch the device. ``waits`` counts those for which the host waits, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(cls, NestedTensor) for cls in types):
            return NotImplemented  # it calls the same on its values, and that comes here
        kwargs = kwargs or {}
        if func.namespace == "aten" and func._can_decompose() and func not in CROSSES:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        touched = any(isinstance(value, DeviceTensor) for value in tree_leaves((args, kwargs)))
        on_device = _result_on_device(func, args, kwargs, touched)
        if not touched and not on_device:
            return func(*args, **kwargs)
        _refuse_mixtures(func, args, kwargs)
        if touched and (func in WAITS or not on_device or _counts(func, args, kwargs)):
            self.waits[WAITS.get(func, "nonzero" if on_device else "copy to the host")] += 1
        return _run(func, args, kwargs, on_device)


def _run(func: Any, args: Any, kwargs: dict[str, Any], on_device: bool) -> Any:
    host_args, host_kwargs = tree_map(
        lambda value: value.host if isinstance(value, DeviceTensor) else value, (args, kwargs)
    )
    if host_kwargs.get("device") is not None:
        host_kwargs["device"] = torch.device("cpu")
    out = func(*host_args, **host_kwargs)
    if not on_device:
        return out
    out = tree_map(lambda value: DeviceTensor(value) if isinstance(value, Tensor) else value, out)
    return out if func in CROSSES else return_and_correct_aliasing(func, args, kwargs, out)


def _counts(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the size of the result depends on values."""
    if func is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    return func in HOST_INDICES and any(index is not None and index.dtype == torch.bool for index in args[1])


def _result_on_device(func: Any, args: Any, kwargs: dict[str, Any], touched: bool) -> bool:
    if func is aten.copy_.default:
        return isinstance(args[0], DeviceTensor)
    device = kwargs.get("device")
    return touched if device is None else torch.device(device).type == NAME


def _refuse_mixtures(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if func in CROSSES:
        return
    if any(value.is_meta and not isinstance(value, DeviceTensor) for value in _tensors((args, kwargs))):
        raise AssertionError(f"{func} got a tensor of the device that holds no values")
    if func in HOST_INDICES and isinstance(args[0], DeviceTensor):
        args = (args[0], *args[2:])
    tensors = _tensors((args, kwargs))
    if torch.Tag.pointwise in func.tags:  # numbers of the host may go with tensors of the device
        tensors = [tensor for tensor in tensors if tensor.dim() or isinstance(tensor, DeviceTensor)]
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(devices)}! (in {func})"
        )


def _tensors(tree: Any) -> list[Tensor]:
    return [value for value in tree_leaves(tree) if isinstance(value, Tensor)]


@contextmanager
def fake_device() -> Iterator[FakeDevice]:
    """While the context lasts, ``device="meta"`` is a device with memory."""

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        return _tensor(data, **options).to(device)

    _tensor, torch.tensor = torch.tensor, tensor  # it never asks a kernel where the device is meta
    try:
        with FakeDevice() as mode:
            yield mode
    finally:
        torch.tensor = _tensor
