"""CUDA graphs of the passes of each width: what Python and the driver take to start small kernels is spent once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from slimlib.core.setting import check_module
from slimlib.core.structures import map_tensors

MOST = 512  # graphs that are kept; each takes about a megabyte beside the memory that all share

Pass = Callable[[], tuple[Tensor, Any]]
"""Runs a width forward and backward; returns its loss and its output, detached."""


class Graphs:
    """Records the passes of a network in training as CUDA graphs, and replays them.

    A pass is run as usual the first time, recorded the second, and replayed from then on. Small networks, whose kernels
    take less time than it takes to start them, train several times faster; the gradients are the same. Everything that
    a pass reads must stay at the same place in memory: parameters and their gradients do (parameters whose
    gradient is None get one of zeros), batches do after `hold`, and a loss must read nothing else that changes.
    Training runs within `stream()`::

        graphs = slim.Graphs(net)
        with graphs.stream():
            for x, y in batches:
                x, y = graphs.hold((x, y))
                optimizer.zero_grad()
                rule.backward(net, x, lambda out: F.cross_entropy(out, y), graphs=graphs)
                optimizer.step()

    Args:
        net: the network, on a GPU and not in DistributedDataParallel.

    Raises:
        ValueError: the network is on a CPU.
    """

    def __init__(self, net: nn.Module) -> None:
        check_module(net)
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        if device.type != "cuda":
            raise ValueError(f"CUDA graphs need a network on a GPU, and this one is on {device}; train without graphs=")
        self._net = net
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._held: dict[str, tuple[list[Any], TreeSpec]] = {}
        self._gradients: dict[nn.Parameter, Tensor] = {}
        self._places: list[int] = []
        self._seen: dict[Hashable, _Recorded | None] = {}

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Within the block everything runs on the stream that passes are recorded on."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        slimming = self._net.__dict__.get("slim")
        if slimming is not None:
            slimming.drop_views()
        gc.collect()  # a view that still lived would lead gradients to the stream that it was made on
        with torch.cuda.stream(self._stream):
            if slimming is not None:
                slimming.refresh()
            yield
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def hold(self, batch: Any, name: str = "batch") -> Any:
        """A copy of a pytree of tensors, in the memory of the last one of this name if the shapes are the same."""
        leaves, spec = tree_flatten(batch)
        held = self._held.get(name)
        if held is None or held[1] != spec or list(map(_kind, held[0])) != list(map(_kind, leaves)):
            self._forget()
            self._held[name] = held = [x.clone() if isinstance(x, Tensor) else x for x in leaves], spec
        else:
            for place, leaf in zip(held[0], leaves, strict=True):
                if isinstance(leaf, Tensor):
                    place.copy_(leaf)
        return tree_unflatten(held[0], spec)

    def begin(self) -> None:
        """Before the passes of a step: every parameter has a gradient, in the same place as ever."""
        absent = [p for p in self._net.parameters() if p.requires_grad and p.grad is None]
        if absent:
            for parameter in absent:
                if parameter not in self._gradients:
                    self._gradients[parameter] = torch.zeros_like(parameter)
                parameter.grad = self._gradients[parameter]
            torch._foreach_zero_([self._gradients[parameter] for parameter in absent])
        tensors = [t for p in self._net.parameters() for t in (p, p.grad) if t is not None]
        places = [tensor.data_ptr() for tensor in tensors]
        if places != self._places:
            self._forget()
            self._places = places

    def run(self, key: Hashable, work: Pass) -> tuple[Tensor, Any]:
        """Do the work, or replay what it did; `key` tells apart whatever of it may differ.

        Returns:
            What the work returns.
        """
        recorded = self._seen.get(key)
        if recorded is None:
            if key not in self._seen:
                if len(self._seen) >= MOST:
                    self._forget()
                self._seen[key] = None
                return work()
            recorded = self._seen[key] = self._record(work)
        return recorded.replay()

    def _record(self, work: Pass) -> _Recorded:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                made = work()
        except RuntimeError as error:  # ending a failed recording raises an error of its own, which hides it
            first = " ".join(str(error.__context__ or error).split())
            raise RuntimeError(f"a pass cannot be recorded as a CUDA graph; train without graphs=. {first}") from error
        return _Recorded(graph, made)

    def _forget(self) -> None:
        """What was recorded reads places that are no longer right; its memory cannot be shared with what follows."""
        self._seen, self._pool = {}, torch.cuda.graph_pool_handle()


class _Recorded:
    """A graph, and what it computes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, made: tuple[Tensor, Any]) -> None:
        self._graph, self._made = graph, made

    def replay(self) -> tuple[Tensor, Any]:
        """Compute it again; the results are copies, because the next replay writes over the memory that all share."""
        self._graph.replay()
        value, output = map_tensors(Tensor.clone, self._made)
        return value, output


def _kind(leaf: Any) -> Any:
    """What must be the same for a leaf to take the place of another."""
    return (leaf.shape, leaf.dtype, leaf.device, leaf.stride()) if isinstance(leaf, Tensor) else leaf
