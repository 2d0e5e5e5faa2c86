"""Which modules read which tensor of a network, found by watching every operation of one run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from slimlib.core.arguments import run_on
from slimlib.core.structures import tensors

TO_PYTHON = {"numpy", "tolist", "__array__", "__dlpack__"}  # give values to Python without an operation


class Reads(TorchDispatchMode):
    """Which module called each module of a network in one run, and which modules ran when a tensor was used.

    Attributes:
        callers: module -> the module in whose forward it was called, for each call; None for the whole network.
        made_by: tensor -> the module without modules of its own that returned it first.
        normed: BatchNorm -> the tensor that it was called with last.
        values_are_read: Python was given a value or a size that depends on values, so that the
            network may go another way on other inputs.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.net = net
        self.callers: dict[nn.Module, list[nn.Module | None]] = defaultdict(list)
        self.made_by: Any = WeakTensorKeyDictionary()
        self.normed: dict[_BatchNorm, Tensor] = {}
        self.values_are_read = False
        self._readers: dict[int, set[nn.Module]] = defaultdict(set)  # address of a memory -> modules
        self._left: set[int] = set()
        self._running: list[nn.Module] = []  # innermost last

    def run(self, args: tuple[Any, ...]) -> Reads:
        """Run the network once."""
        with torch.no_grad(), self._hooks(), _ToPython(self), self:
            outputs = run_on(self.net, args)
        left = tensors([outputs, *(vars(module) for module in self.net.modules())])
        self._left = {memory(tensor) for tensor in left}
        return self

    def readers(self, tensor: Tensor) -> set[nn.Module]:
        """The innermost modules of all operations that used the memory of a tensor that is still alive."""
        return self._readers[memory(tensor)]

    def outlives(self, tensor: Tensor) -> bool:
        """Whether the run left a tensor behind: the network returned it, or a module keeps it as an attribute."""
        return memory(tensor) in self._left

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        used = {memory(tensor) for tensor in tensors((args, kwargs))}
        for address in used:
            self._readers[address].add(self._running[-1])
        self.values_are_read |= _depends_on_values(func, args)
        out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            if memory(tensor) not in used:
                self._readers[memory(tensor)] = set()  # new memory, maybe where another tensor was
        return out

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.callers[module].append(self._running[-1] if self._running else None)
            self._running.append(module)
            if isinstance(module, _BatchNorm) and (entering := tensors((args, kwargs))):
                self.normed[module] = entering[0]

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._running.pop()
            if not module._modules and isinstance(output, Tensor):
                self.made_by.setdefault(output, module)  # dropout in eval mode returns what it was given

        handles = []
        for module in self.net.modules():
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _ToPython(TorchFunctionMode):
    """Notes what no operation shows."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.reads.values_are_read |= getattr(func, "__name__", "") in TO_PYTHON
        return func(*args, **(kwargs or {}))


def memory(tensor: Tensor) -> int:
    """Where the values of a tensor are; views have the same. 0 for a tensor without an address."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def _depends_on_values(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation gives Python a value, or a tensor whose size depends on values."""
    if torch.Tag.data_dependent_output in func.tags:
        return True
    if func is torch.ops.aten.index.Tensor:  # by positions, or by a mask
        return any(index.dtype in (torch.bool, torch.uint8) for index in tensors(args[1]))
    return torch.Tag.dynamic_output_shape in func.tags
