"""A features extractor with fewer channels than its class builds.

Models of stable-baselines3 carry this class within them, so that they load without slimlib: hence it needs
nothing but torch and stable-baselines3. As all code that a pickle carries, it is bytecode of one minor version
of Python.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class ByValue(type):
    """A class whose code goes into a pickle, where others leave only their name."""


class NarrowedExtractor(BaseFeaturesExtractor, metaclass=ByValue):
    """The features extractor of a narrow policy: what is made is of the class `base`, and has narrow layers.

    Args:
        observation_space: of the policy.
        base: class of the full extractor.
        base_kwargs: what the full one was built with.
        features_dim: number of features that come out of the narrow one.
        shapes: name of a parameter or buffer -> its narrow shape.
        numbers: name of a layer -> its attributes, such as out_channels, that tell of narrow channels.
    """

    def __new__(  # type: ignore[misc]
        cls,
        observation_space: spaces.Space[Any],
        base: type[BaseFeaturesExtractor],
        base_kwargs: Mapping[str, Any],
        features_dim: int,
        shapes: Mapping[str, Sequence[int]],
        numbers: Mapping[str, Mapping[str, Any]],
    ) -> BaseFeaturesExtractor:
        extractor = base(observation_space, **base_kwargs)
        for name, shape in shapes.items():
            cut(extractor, name, shape)
        for name, values in numbers.items():
            vars(extractor.get_submodule(name)).update(values)
        for name in {name.rpartition(".")[0] for name in shapes}:
            initialise = getattr(extractor.get_submodule(name), "reset_parameters", None)
            if initialise is not None:
                initialise()
        extractor._features_dim = features_dim
        return extractor


def cut(module: nn.Module, name: str, shape: Sequence[int]) -> None:
    """Keep only the leading part of a parameter or buffer."""
    owner, _, own = name.rpartition(".")
    module = module.get_submodule(owner)
    full: torch.Tensor = getattr(module, own)
    narrow = full.detach()[tuple(slice(size) for size in shape)].clone()
    if isinstance(full, nn.Parameter):
        narrow = nn.Parameter(narrow, requires_grad=full.requires_grad)
    setattr(module, own, narrow)


def by_value(made: ByValue) -> tuple[Any, ...]:
    """How pickle, which `policy.save` uses, writes such a class: as cloudpickle does."""
    return cloudpickle.loads, (cloudpickle.dumps(made),)


cloudpickle.register_pickle_by_value(sys.modules[__name__])
copyreg.pickle(ByValue, by_value)
