"""One step of training, as rules and teachers see it: what the network puts out on the batch, without gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from slimlib.core.arguments import run_on
from slimlib.core.setting import set_width, trainable_parts
from slimlib.core.structures import map_tensors
from slimlib.core.width import Width

Loss = Callable[[Any, Width], Tensor]
"""(output of a width, the width) -> scalar."""


class Step:
    """What rules may look at before they draw, and teachers when they teach.

    Args:
        net: the network that is trained.
        args: of its forward: the batch.
        loss: of the data.
        forward, autocast: see `Rule.backward`.
        averages: of the network, by the teachers that keep them.

    Attributes:
        widths: of the step, largest first; empty while they are drawn.
        of_data: the loss of the data.
    """

    def __init__(
        self,
        net: nn.Module,
        args: tuple[Any, ...] = (),
        loss: Loss | None = None,
        *,
        forward: Callable[..., Any] | None = None,
        autocast: torch.dtype | None = None,
        averages: Mapping[Hashable, Average] | None = None,
    ) -> None:
        self.net, self.widths = net, list[Width]()
        self._args, self.of_data, self._averages = args, loss, averages or {}
        self._forward, self._autocast = net if forward is None else forward, autocast
        self._outputs: dict[tuple[Hashable, Width], Any] = {}

    def run(self, size: int | None = None) -> Any:
        """The output at the width that is set, of images scaled to `size` x `size`; None: as they are."""
        if size is None:
            return self._run(self._args)
        args = _scaled(self._args, size)
        try:
            return self._run(args)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(
                f"the network does not take images that the rule scaled to {size} x {size} pixels; give it other "
                f"sizes, or take one that leaves images as they are ({error})"
            ) from error

    def _run(self, args: tuple[Any, ...]) -> Any:
        if self._autocast is None:
            return run_on(self._forward, args)
        return in_lower_precision(self.net, args, self._autocast, self._forward)

    @property
    def casts(self) -> bool:
        """Whether the forward casts the weights to another precision."""
        device = next(self.net.parameters()).device.type
        return self._autocast is not None or torch.is_autocast_enabled(device)

    def keep(self, width: Width, output: Any) -> None:
        """Let teachers know the output of a width."""
        self._outputs[None, width] = map_tensors(Tensor.detach, output)

    def output(self, width: Width, *, average: Hashable = None) -> Any:
        """What a width puts out, of the network or of one of its averages; computed once in a step, without gradient.

        The network is then at that width.
        """
        if (average, width) not in self._outputs:
            self._outputs[average, width] = self._look(width, self._averages.get(average))
        return self._outputs[average, width]

    def loss(self, width: Width) -> float:
        """The loss of a width on the data of this step, the mean over all ranks. The network is then at that width."""
        assert self.of_data is not None, "this step has no data"
        with torch.no_grad():
            value = scalar("loss", self.of_data(self._look(width, None), width)).detach().clone()
        if isinstance(self.net, DistributedDataParallel):
            distributed.all_reduce(value)
            value /= distributed.get_world_size()
        return value.item()

    def begun(self, average: Hashable) -> bool:
        """Whether there is an average by now."""
        return self._averages[average].begun

    def _look(self, width: Width, average: Average | None) -> Any:
        lent: AbstractContextManager[None] = nullcontext() if average is None else average.lent(self.net)
        with torch.no_grad(), buffers_stay(self.net), lent:
            set_width(self.net, width)
            return self.run()


class Average:
    """The exponential moving average of a network's parameters, of one value a step.

    Args:
        decay: what is left of it after a step.
        start: it begins as a copy of the network in the step of this number.
    """

    def __init__(self, decay: float, start: int) -> None:
        self.decay, self.start, self.steps = decay, start, 0
        self._values: list[Tensor] = []
        self._sorted_times: list[int] | None = None  # of the network, when it was last looked at

    @property
    def begun(self) -> bool:
        """Whether there is an average by now."""
        return bool(self._values)

    @torch.no_grad()
    def follow(self, net: nn.Module) -> None:
        """Take in the network as it is at the beginning of a step."""
        parameters = _averaged(net)
        if self.begun:
            self._check(parameters)
            if self._sorted_times not in (None, _sorted_times(net)):
                raise ValueError(
                    "the channels of this network were sorted, and those of its averaged teacher were not; "
                    "call slimlib.sort_channels(..., rule=rule)"
                )
        self.note_order(net)
        if self.begun:
            for i, (value, parameter) in enumerate(zip(self._values, parameters, strict=True)):
                self._values[i] = value.to(parameter.device)  # a loaded state lies where it was read
                self._values[i].lerp_(parameter.to(value.dtype), 1 - self.decay)
        elif self.steps >= self.start:
            # An average of half precision would not move: its steps are smaller than its last digit.
            self._values = [p.to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in parameters]
        self.steps += 1

    def note_order(self, net: nn.Module) -> None:
        """The values are in the order that the channels of the network have now."""
        self._sorted_times = _sorted_times(net)

    def of(self, net: nn.Module) -> dict[nn.Parameter, Tensor]:
        """The average of each parameter of the network that it follows."""
        parameters = _averaged(net)
        self._check(parameters)
        return dict(zip(parameters, self._values, strict=True))

    @contextmanager
    def lent(self, net: nn.Module) -> Iterator[None]:
        """Within the block the network has the averaged parameters."""
        # By `data`, behind autograd's back: what a graph has saved is the same again before it runs backward.
        parameters = [parameter.data for parameter in _averaged(net)]
        own = [parameter.clone() for parameter in parameters]

        def put(values: list[Tensor]) -> None:
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)
            torch.clear_autocast_cache()  # of a region around the step, which does not see what `data` changes

        try:
            put(self._values)
            yield
        finally:
            put(own)

    def state_dict(self) -> dict[str, Any]:
        """The average, and the number of steps."""
        return {"steps": self.steps, "values": [value.clone() for value in self._values]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.steps, self._values = int(state["steps"]), [value.clone() for value in state["values"]]
        self._sorted_times = None

    def _check(self, parameters: list[nn.Parameter]) -> None:
        if [value.shape for value in self._values] != [parameter.shape for parameter in parameters]:
            raise ValueError("the averaged teacher follows another network; a rule trains one network, from its start")


def _scaled(args: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    """Images [N, C, H, W], scaled bilinearly; anything else as it is.

    Raises:
        ValueError: there is no image.
    """
    images = [isinstance(arg, Tensor) and arg.ndim == 4 for arg in args]
    if not any(images):
        given = ", ".join(str(list(arg.shape)) if isinstance(arg, Tensor) else type(arg).__name__ for arg in args)
        raise ValueError(f"narrow widths learn from smaller images [N, C, H, W] by this rule, and it got {given}")
    return tuple(
        _scaled_image(arg, size) if image and arg.shape[2:] != (size, size) else arg
        for arg, image in zip(args, images, strict=True)
    )


def _scaled_image(x: Tensor, size: int) -> Tensor:
    half = x.is_floating_point() and x.element_size() < 4  # which torch does not scale on a CPU
    scaled = F.interpolate(x.float() if half else x, (size, size), mode="bilinear", antialias=True)
    return scaled.to(x.dtype)


def _averaged(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.is_floating_point() or p.is_complex()]


def _sorted_times(net: nn.Module) -> list[int]:
    return [part.sorted_times for part in trainable_parts(net)]


@contextmanager
def buffers_stay(net: nn.Module) -> Iterator[None]:
    """BatchNorm in training moves its statistics on in every forward pass; those without gradient leave no trace."""
    before = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)


def loss_of_width(loss: Callable[..., Tensor]) -> Loss:
    """`loss(output)` or `loss(output, width)` as the latter.

    A second parameter with a default is what a lambda binds (`lambda out, target=target: ...`), unless it is `width`.

    Raises:
        ValueError: the second parameter is the target, as of torch's losses.
    """
    try:
        called: Callable[..., Tensor] = loss.forward if isinstance(loss, nn.Module) else loss
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):  # of a function in C
        parameters = []
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    asks = len(places) > 1 and (places[1].default is places[1].empty or places[1].name == "width")
    if asks and places[1].name in ("target", "targets"):
        name = getattr(loss, "__name__", type(loss).__name__)
        raise ValueError(
            f"{name} takes a {places[1].name}, and a rule calls loss(output), or loss(output, width); give it the "
            f"{places[1].name} of this batch: lambda output: loss(output, {places[1].name})"
        )
    return loss if asks else lambda output, _: loss(output)


def scalar(what: str, value: Any) -> Tensor:
    """What a loss returned.

    Raises:
        ValueError: it is no tensor of one number.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(
            f"{what} returned {found}; it must return a tensor of one number to run backward from, such as the mean "
            "over the batch, not its .item()"
        )
    return value


def in_lower_precision(
    net: nn.Module, args: tuple[Any, ...], dtype: torch.dtype, forward: Callable[..., Any] | None = None
) -> Any:
    """The output in float32 of a network that computes in `dtype` where torch.autocast does."""
    with torch.autocast(next(net.parameters()).device.type, dtype=dtype):
        output = run_on(net if forward is None else forward, args)
    return map_tensors(lambda t: t.float() if t.dtype == dtype else t, output)
