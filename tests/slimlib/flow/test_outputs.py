"""What networks return and are called with: tensors are found in containers, dataclasses and plain objects."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slimlib as slim
from slimlib.core.structures import map_tensors, opaque, tensors
from slimlib.flow import FlowError, follow
from tests.slimlib.flow.judging import Net, between_convolutions, conv, image, share_left


@dataclass(frozen=True)
class Answer:
    logits: torch.Tensor
    hidden: object = None


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits):
        self.logits = logits


Named = namedtuple("Named", "logits loss")

RETURNED = {
    "dataclass": Answer,
    "dataclass in a dataclass": lambda y: Answer(y.exp(), Answer(y)),
    "object": lambda y: SimpleNamespace(logits=y, name="answer"),
    "slots": Slotted,
    "mapping": lambda y: UserDict(logits=y),
    "ordered dict": lambda y: OrderedDict(logits=y),
    "namedtuple": lambda y: Named(y, y.mean()),
    "set": lambda y: {y},
    "distribution": lambda y: torch.distributions.Normal(y, y.exp()),
    "nested": lambda y: {"answers": [Answer(y), (y, None, 3)]},
}


def classifier(wrap):
    def forward(net, x):
        return wrap(net.c(F.relu(net.b(F.relu(net.a(x))))).mean((2, 3)))

    return Net(forward, a=conv(3, 32), b=conv(32, 32), c=conv(32, 10))


@pytest.mark.parametrize("name", RETURNED)
def test_what_is_returned_in_an_object_stays_full(name):
    assert share_left(classifier(RETURNED[name]), image()) < 0.35


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda y: (t for t in [y]), "generator"),
        (lambda y: y.detach().numpy(), "ndarray"),
        (lambda y: lambda: y, "function"),
        (lambda y: None, "NoneType"),
    ],
)
def test_outputs_that_hide_their_tensors_are_refused_by_name(wrap, kind):
    with pytest.raises(FlowError, match=rf"returned in the network's own forward \({kind}\) hides tensors"):
        follow(classifier(wrap), image())


def test_arguments_may_be_objects():
    net = between_convolutions(lambda net, x: x)
    dense = net.compute
    net.compute = lambda net, batch: dense(net, batch.logits)
    assert share_left(net, (Answer(image()),)) < 0.35


def test_extract_compares_what_is_in_objects():
    net, x = classifier(Answer), image()
    slim.convert(net, x)
    net.eval().compute = lambda net, x: Answer(torch.rand(2))
    with pytest.raises(RuntimeError, match="the extracted network differs"):
        slim.extract(net, 0.5, x)


def test_tensors_are_found_and_mapped_alike():
    answer = Answer(torch.ones(2), {"deep": [SimpleNamespace(x=torch.ones(1))]})
    doubled = map_tensors(lambda t: t * 2, answer)
    assert [t.tolist() for t in tensors(doubled)] == [[2.0, 2.0], [2.0]]
    assert [t.tolist() for t in tensors(answer)] == [[1.0, 1.0], [1.0]]
    assert opaque([answer, "text", 1.5, None]) == []


def test_a_mean_of_all_that_is_returned_keeps_what_it_is_of():
    net = Net(lambda net, x: net.b(F.relu(net.a(x))).mean(), a=conv(3, 32), b=conv(32, 32))
    assert follow(net, image()).kept == {"b": "statistic over channels: mean in the network's own forward"}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_parameters_of_one_element_have_run(shape):
    net = between_convolutions(lambda net, x: x * net.scale, scale=nn.Parameter(torch.ones(shape)))
    assert follow(net, image()).idle == ()


def test_a_buffer_that_forward_assigns_anew_stays():
    def remember(net, x):
        net.memory = 0.9 * net.memory + x.mean((0, 2, 3)).detach()
        return x

    net = between_convolutions(remember, memory=torch.zeros(32))
    memory = net.memory
    assert follow(net, image()).kept["first"] == "is joined with a buffer that forward assigns anew"
    assert net.memory is memory
    assert not memory.any()


def test_a_buffer_that_forward_moves_on_follows_the_channels():
    def centre(net, x):
        if net.training:
            net.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)).detach())
        return x - net.mean.view(1, -1, 1, 1)

    net = between_convolutions(centre, mean=torch.zeros(32))
    assert share_left(net, image()) < 0.35
    slim.set_width(net.train(), 0.5)
    net(image())
    assert net._buffers["mean"][:16].all()
    assert not net._buffers["mean"][16:].any()


def test_an_attribute_that_outlives_a_run_does_not_matter():
    def keep(net, x):
        net.last_seen = x
        return net.last_seen

    assert share_left(between_convolutions(keep), image()) < 0.35


def test_compiled_children_stay_full_by_name():
    net = between_convolutions(lambda net, x: net.compiled(x), compiled=torch.jit.script(conv(32, 32)))
    layout = follow(net, image())
    assert layout.kept["compiled"] == "was compiled by torch.jit"
    assert {group.name for group in layout.groups} == {"second"}
    net = between_convolutions(lambda net, x: net.compiled(x), compiled=torch.jit.script(nn.ReLU()))
    assert {group.name for group in follow(net, image()).groups} == {"first", "second"}


@pytest.mark.parametrize("other", [torch.ones(10), torch.ones(1, 1), torch.tensor(2.0), torch.ones(3, 1)])
def test_one_image_beside_an_argument_without_batch(other):
    def forward(net, x, scale):
        return net.c(F.relu(net.norm(net.b(F.relu(net.a(x))).mean((2, 3))))) * scale.flatten()[:1]

    net = Net(forward, a=conv(3, 32), b=conv(32, 32), norm=nn.BatchNorm1d(32), c=nn.Linear(32, 10))
    assert share_left(net, (image(count=1), other)) < 0.35
