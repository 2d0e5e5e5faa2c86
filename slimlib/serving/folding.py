"""Fold the BatchNorms of a plain network into the layers that feed them, for serving."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimlib.core.arguments import arguments
from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.structures import tensors
from slimlib.serving.agreement import check_same_outputs
from slimlib.serving.reads import Reads

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FEEDERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, nn.Linear)
BATCH_NORMS = (nn.SyncBatchNorm, _BatchNorm)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Found:
    """What can be folded in a network, by the names of its modules.

    norms: BatchNorm -> the layer that feeds it.
    chains: each `nn.Sequential` from which modules that do nothing can be taken.
    """

    norms: Mapping[str, str]
    chains: Sequence[str]

    def apply(self, net: nn.Module) -> None:
        """Fold the norms, turn dropout into identities, and take identities out of the chains."""
        modules = dict(net.named_modules())
        for norm, layer in self.norms.items():
            fold_norm(modules[norm], modules[layer])
        for module in modules.values():
            if type(module) in DROPOUTS and not module.training and not has_hooks(module):
                make_identity(module)
        for chain in self.chains:
            for name, module in list(modules[chain]._modules.items()):
                if type(module) is nn.Identity and not has_hooks(module):
                    del modules[chain]._modules[name]  # in contrast to `del chain[i]`, later ones keep their names


def fold(net: nn.Module, example: Any) -> nn.Module:
    """Fold BatchNorm into the layers that feed it, in place, and take out what does nothing in eval mode.

    One run on `example` finds the layers: a norm is folded where it reads what one convolution or linear
    layer returned, and nothing else does. It stays where its input is something else (a sum, a concatenation);
    where it or the layer is called twice, has a hook, is of a class with a forward of its own, or has
    parameters that are read elsewhere; where it has no running statistics; and everywhere in a network
    whose forward looks at values, as on other inputs that may go another way. Branches on anything else,
    the size of an image say, must be those that all later inputs take.

    Folded norms and dropout become `nn.Identity`, and an `nn.Sequential` that is only called as a whole loses
    its identities. The other modules keep their names, and so do their parameters in `state_dict`.

    Args:
        net: a plain network. Afterwards it is in eval mode, and none of its parameters requires a gradient.
        example: an input (or a tuple of arguments), on which the outputs are compared.

    Raises:
        RuntimeError: the outputs on `example` differ, or the folded network fails there.

    Source: Jacob et al. 2018 (Quantization and Training of Neural Networks), sec. 3.2.
    """
    fold_like(net, example, None)
    return net


def fold_like(net: nn.Module, example: Any, known: Found | None) -> Found:
    """Fold what was found in the network of another width, or where that does not fit, what is found in this one."""
    args = arguments(net, example)
    net.eval().requires_grad_(False)
    found = find(net, args) if known is None else known
    layers = {layer: norm for norm, layer in found.norms.items()}
    try:
        check_same_outputs(net, found.apply, args, instead_of=layers)
    except RuntimeError:
        if known is None:
            raise
        return fold_like(net, example, None)
    found.apply(net)
    return found


def find(net: nn.Module, args: tuple[Any, ...]) -> Found:
    """What can be folded in a network; it runs on a copy."""
    watched = copy.deepcopy(net)
    with own_random_numbers():
        reads = Reads(watched).run(copy.deepcopy(args))
    if reads.values_are_read:
        return Found({}, ())
    names = {module: name for name, module in watched.named_modules()}
    norms = {}
    for norm, x in reads.normed.items():
        layer = reads.made_by.get(x)
        if layer is not None and is_foldable(norm, layer, x, reads):
            norms[names[norm]] = names[layer]
    return Found(norms, [name for module, name in names.items() if is_chain(module, reads)])


def is_foldable(norm: _BatchNorm, layer: nn.Module, x: Tensor, reads: Reads) -> bool:
    """Whether a layer may return the normalised `x` instead of the `x` that a norm reads."""
    return (
        is_unchanged(norm, BATCH_NORMS)
        and is_unchanged(layer, FEEDERS)
        and len(reads.callers[norm]) == len(reads.callers[layer]) == 1
        and not norm.training
        and norm.running_mean is not None
        and x.dim() == layer.get_parameter("weight").dim()  # then the channels of both are in dimension 1
        and reads.readers(x) - {layer} == {norm}
        and not reads.outlives(x)
        and all(reads.readers(used) == {module} for module in (norm, layer) for used in computed_with(module))
        and all(bool(t.isfinite().all()) for t in folded_weights(norm, layer))
    )


def is_unchanged(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module does with parameters of its own what torch's class of one of these kinds does."""
    kind = next((kind for kind in kinds if isinstance(module, kind)), None)
    methods = {"forward", "_conv_forward"}
    return (
        kind is not None
        and all(getattr(type(module), name, None) is getattr(kind, name, None) for name in methods)
        and not methods & vars(module).keys()
        and module._parameters.keys() >= {"weight", "bias"}
        and not has_hooks(module)
    )


def computed_with(module: nn.Module) -> list[Tensor]:
    held = {**module._parameters, **module._buffers}
    return tensors([held.get(name) for name in ("weight", "bias", "running_mean", "running_var")])


def is_chain(module: nn.Module, reads: Reads) -> bool:
    """Whether a module only passes its input through its children, which nothing else calls."""
    return (
        type(module).forward is nn.Sequential.forward
        and module in reads.callers
        and all(set(reads.callers.get(child, ())) <= {module} for child in module.children())
    )


def has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def fold_norm(norm: nn.Module, layer: nn.Module) -> None:
    """Let a layer return what the norm makes of its output, and the norm do nothing."""
    layer.weight, layer.bias = (nn.Parameter(t, requires_grad=False) for t in folded_weights(norm, layer))
    make_identity(norm)


def folded_weights(norm: Any, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias with which a layer returns what the norm makes of its output.

    They are computed in double precision, and have the type, the memory format and the device of the layer's weight.
    """
    weight, bias = layer.get_parameter("weight"), layer._parameters["bias"]
    scale = (exact(norm.running_var) + norm.eps).rsqrt() * exact(norm.weight, 1.0)  # [out]
    shift = (exact(bias, 0.0) - exact(norm.running_mean)) * scale + exact(norm.bias, 0.0)
    scaled = exact(weight) * along_outputs(scale, layer)
    return torch.empty_like(weight).copy_(scaled), weight.new_empty(shift.shape).copy_(shift)


def exact(tensor: Tensor | None, default: float = 0.0) -> Tensor:
    return torch.tensor(default).double() if tensor is None else tensor.detach().cpu().double()


def along_outputs(scale: Tensor, layer: nn.Module) -> Tensor:
    """A number for each output channel, in a shape that multiplies the layer's weight."""
    weight = layer.get_parameter("weight")
    if isinstance(layer, TRANSPOSED):  # weight [in, out / groups, ...]; a group has a part of both
        scale = scale.view(layer.groups, -1).repeat_interleave(len(weight) // layer.groups, dim=0)
    return scale.view(*scale.shape, *[1] * (weight.dim() - scale.dim()))


def make_identity(module: nn.Module) -> None:
    """The module itself becomes one, so that every reference to it, in a plain list too, is one."""
    module.__class__ = nn.Identity
    module._parameters.clear()
    module._buffers.clear()
