"""From a slimmable network to plain dense ones: `extract` for one width."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm

from slimlib.core.arguments import arguments
from slimlib.core.layers import SLIM_LAYERS
from slimlib.core.norms.batchnorm import refuse_uncalibrated
from slimlib.core.setting import at_width, in_eval, slimming_of, unwrapped
from slimlib.core.statistics import is_private
from slimlib.core.structures import tensors
from slimlib.core.swapping import Gather, dense_class, gathered, without_weight_norm_hooks
from slimlib.core.tolerance import Tolerance, check_tells
from slimlib.core.width import Width
from slimlib.serving import folding

PLAIN = {slim: dense for dense, slim in SLIM_LAYERS.items()}
SAME = Tolerance(relative=1e-4, absolute=1e-5, whole=True)
OURS = ("full_numbers", "name_in_network", "slim_output", "to_gather", "slim", "slimming")


def extract(net: nn.Module, width: Width, example: Any = None, *, fold: bool = False) -> nn.Module:
    """A plain dense network with the weights of one width: the same outputs, no slimlib in it.

    Weight normalisation is computed and folded away. `net` is not changed, and shares nothing with the copy.

    Args:
        net: a slimmable network, or a module that holds one, which is copied with it.
        width: the width to copy.
        example: an input (or a tuple of arguments) on which both are run in eval mode and compared.
        fold: for serving alone: BatchNorms are folded into the layers that feed them, and dropout is taken out.
            A norm that cannot be folded stays. See `slimlib.serving.folding.fold`.

    Raises:
        ValueError: the width is not allowed, there is no `example` to fold by, no output on it is finite, or the
            network was written from slim layers and never converted: the input channels of a layer are not known.
        UncalibratedWidth: it has no BatchNorm statistics.
        RuntimeError: the outputs on `example` differ.
    """
    if fold and example is None:
        raise ValueError("extract(..., fold=True) needs example=..., an input, to find which layer feeds which norm")
    net = unwrapped(net)
    source = slimming_of(net)
    source.check(width)
    if source.channels_at(width) != source.layout.full:
        _refuse_layers_by_hand(net)
    source.empty_caches()
    plain = copy.deepcopy(net)
    slimming = slimming_of(plain)
    slimming.set(width)
    for part in slimming.parts:
        refuse_uncalibrated(part.module)
    for module in list(plain.modules()):
        fold_weight_norm(module)
    copies: dict[Tensor, list[Tensor]] = {}
    for module in list(plain.modules()):
        _make_plain(module, copies)
    if example is not None:
        _compare(net, width, plain, example)
    return folding.fold(plain, example) if fold else plain


def _refuse_layers_by_hand(net: nn.Module) -> None:
    layers: Any = tuple(PLAIN)
    for name, module in net.named_modules():
        if isinstance(module, layers) and module.name_in_network is None:
            raise ValueError(
                f"layer '{name}' ({type(module).__name__}) was written by hand and reads its input channels off what "
                "arrives, so that none can be cut off. Call slimlib.convert(net, example) on the new "
                f"{type(net).__name__}, in place of slimlib.adopt; then extract, freeze and export work"
            )


def compact(t: Tensor, like: Tensor) -> Tensor:
    """Its own copy, dense in memory, channels_last where the full parameter is; a sparse one stays sparse."""
    if t.layout is not torch.strided:
        return t.detach().clone()
    channels_last = (
        like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    )
    return t.detach().clone(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def active_tensor(module: nn.Module, name: str) -> Tensor | None:
    """What `module` computes with under this name at the width that is set; gathered where it has to be."""
    gathered_now: tuple[Gather, ...] = module.__dict__.get("to_gather", ())
    for gathers, source, picks in gathered_now:
        if gathers == name:
            return gathered(source, picks)
    value = module.__dict__.get(name, module._parameters.get(name, module._buffers.get(name)))
    return value if isinstance(value, Tensor) else None


def plain_class(module: nn.Module) -> type:
    dense = dense_class(type(module))
    return PLAIN.get(dense, dense)


def _make_plain(module: nn.Module, copies: dict[Tensor, list[Tensor]]) -> None:
    """Own copies of the active slices, the class from before, and no trace of slimming.

    `copies`: of each whole tensor, those made so far; modules that share it share them.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return  # stays full
    stores: tuple[Any, Any] = (module._parameters, module._buffers)
    for store in stores:
        for name, full in list(store.items()):
            if is_private(name):
                del store[name]
                continue
            active = active_tensor(module, name)
            if full is None or active is None:
                continue
            known = copies.setdefault(full, [])
            own = next((t for t in known if t.shape == active.shape and torch.equal(t, active)), None)
            if own is None:
                own = compact(active, full)
                own = nn.Parameter(own, requires_grad=full.requires_grad) if isinstance(full, nn.Parameter) else own
                known.append(own)
            store[name] = own
            module.__dict__.pop(name, None)
    if "track_running_stats" in module.__dict__.get("full_numbers", {}):
        module.__dict__["track_running_stats"] = True
    for name in OURS:
        module.__dict__.pop(name, None)
    module.__class__ = plain_class(module)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def fold_weight_norm(module: nn.Module) -> None:
    """Compute parametrized weights once, in either of torch's forms."""
    if parametrize.is_parametrized(module):
        originals: Any = module._modules.pop("parametrizations")
        module.__class__ = plain_class(module)
        computed: dict[str, nn.Parameter | None] = {
            name: nn.Parameter(list_().detach()) for name, list_ in originals.items()
        }
        module._parameters = computed | module._parameters
        module._load_state_dict_pre_hooks = without_weight_norm_hooks(module._load_state_dict_pre_hooks)
    for norm in [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]:
        remove_weight_norm(module, norm.name)
        for part in ("g", "v"):
            module.__dict__.pop(f"{norm.name}_{part}", None)  # what was swapped in


def _compare(net: nn.Module, width: Width, plain: nn.Module, example: Any) -> None:
    args = arguments(net, example)
    with at_width(net, width), in_eval(net, plain), torch.no_grad():
        ours, theirs = tensors(net(*args)), tensors(plain(*args))
    check_tells(ours)
    for a, b in zip(ours, theirs, strict=True):
        if SAME.differ(a, b):
            raise RuntimeError(
                "the extracted network differs from the slimmable one on the example; "
                "does its forward draw random numbers in eval mode, or keep state between calls?"
            )
