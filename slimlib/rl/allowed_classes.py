"""What a model or policy of stable-baselines3 may hold: the classes that its pickles may name, make and fill.

None of them does anything but hold values when it is made or filled.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection
from pathlib import Path
from typing import Any

import stable_baselines3.dqn.policies as dqn
import stable_baselines3.sac.policies as sac
import torch
from gymnasium import spaces
from stable_baselines3.common import buffers, noise, policies, torch_layers, utils
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.her import GoalSelectionStrategy, HerReplayBuffer
from torch import Tensor
from torch.nn.modules import activation

from slimlib.core.allowed_arrays import ARRAYS, GENERATORS
from slimlib.core.unpickling import Allowed, Refused, calls_instead, may_call, may_fill, may_name
from slimlib.core.width import Switches, WidthPlan, WidthRange

OPTIMIZERS = [getattr(torch.optim, name) for name in dir(torch.optim)]
NAMED: tuple[type, ...] = (
    *(getattr(activation, name) for name in activation.__all__),
    *(each for each in OPTIMIZERS if isinstance(each, type) and issubclass(each, torch.optim.Optimizer)),
    RMSpropTFLike,
    *(policies.ActorCriticPolicy, policies.ActorCriticCnnPolicy, policies.MultiInputActorCriticPolicy),
    *(dqn.DQNPolicy, dqn.CnnPolicy, dqn.MultiInputPolicy, sac.SACPolicy, sac.CnnPolicy, sac.MultiInputPolicy),
    *(torch_layers.FlattenExtractor, torch_layers.NatureCNN, torch_layers.CombinedExtractor),
    *(HerReplayBuffer, bool, int, float, str),
)
"""Stable-baselines3 makes things of these."""
CALLED: tuple[type, ...] = (
    *(deque, OrderedDict, defaultdict, set, frozenset, slice, range, complex, type(Path())),
    *(TrainFreq, TrainFrequencyUnit, GoalSelectionStrategy, torch.device, torch.Size),
)
ENUMERATIONS = (TrainFrequencyUnit, GoalSelectionStrategy)
FILLED: tuple[type, ...] = (
    *(spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete, spaces.Dict, spaces.Tuple),
    *(spaces.Text, spaces.Graph, spaces.Sequence, spaces.OneOf),
    *(utils.FloatSchedule, utils.ConstantSchedule, utils.LinearSchedule),
    *(noise.NormalActionNoise, noise.OrnsteinUhlenbeckActionNoise, noise.VectorizedActionNoise),
    *(buffers.RolloutBuffer, buffers.DictRolloutBuffer, buffers.ReplayBuffer, buffers.DictReplayBuffer),
    *(buffers.NStepReplayBuffer, WidthRange, Switches, WidthPlan),
)
DTYPES = {("torch", name): each for name, each in vars(torch).items() if isinstance(each, torch.dtype)}


def _attribute(owner: Any, name: Any) -> Any:
    """A member of an enumeration, which Python 3.11.0 to 3.11.3 save so, or what stands in for a policy's schedule."""
    if any(owner is each for each in ENUMERATIONS) and name in owner.__members__:
        return owner[name]
    if owner is policies.BasePolicy and name == "_dummy_schedule":
        return policies.BasePolicy._dummy_schedule
    raise Refused("asks for an attribute of something")


MODEL = ARRAYS | GENERATORS | may_name(*NAMED) | may_call(*CALLED) | may_fill(*FILLED) | Allowed(DTYPES)
MODEL |= calls_instead({(builtins, "getattr"): _attribute for builtins in ("builtins", "__builtin__")})
"""What the attributes of a model may hold."""


def own_allowed(known: Allowed, allow: Any) -> Allowed:
    """What is known, and a user's own classes and functions.

    Raises:
        ValueError: `allow` is no list of them.
    """
    if not isinstance(allow, Collection) or not all(map(callable, allow)):
        name = getattr(allow, "__name__", "MyExtractor")
        raise ValueError(f"allow={allow!r} must be a list of classes and functions, such as allow=[{name}]")
    return known.and_own([*allow])


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A tensor within its storage: torch would make a storage that is too small larger."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise Refused("holds a tensor without a storage")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and not (offset >= 0 and min(stride, default=0) >= 0 and last < storage._size()):
        raise Refused("holds a tensor that reaches out of its storage")
    tensor: Tensor = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())
    return tensor


def _fill_state_dict(made: OrderedDict[Any, Any], state: Any) -> None:
    """With what torch keeps of the versions of modules."""
    if not isinstance(state, dict) or state.keys() != {"_metadata"}:
        raise Refused("sets what is inside an OrderedDict")
    vars(made).update(state)


POLICY = (
    MODEL
    | calls_instead({("torch._utils", "_rebuild_tensor_v2"): _tensor})
    | may_name(policies.BasePolicy)
    | Allowed({}, filled_by={OrderedDict: _fill_state_dict})
)
"""What a policy may hold, whose file has its weights in the same pickle."""
