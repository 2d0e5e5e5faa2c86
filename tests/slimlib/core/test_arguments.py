"""A network is called with one input, a tuple, or arguments by name."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import slimlib as slim
from slimlib.core.arguments import arguments


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.up, self.out = nn.Embedding(20, 32), nn.Linear(32, 64), nn.Linear(64, 3)

    def forward(self, ids=None, mask=None, *, scale=None):
        x = self.words(ids)
        x = x if mask is None else x * mask[..., None]
        return self.out(torch.relu(self.up(x))) * (scale or 1)


class Observing(nn.Module):
    def forward(self, observation):
        return observation["image"]


IDS, MASK = torch.randint(0, 20, (2, 5)), torch.ones(2, 5)


def test_names_become_positions_and_what_lies_between_its_default():
    assert [type(a) for a in arguments(Encoder(), {"mask": MASK})] == [type(None), torch.Tensor]
    assert arguments(Encoder(), {"mask": MASK, "ids": IDS}) == (IDS, MASK)


def test_other_mappings_are_the_one_input():
    observation = {"image": MASK}
    assert arguments(Observing(), observation) == (observation,)
    assert arguments(Observing(), {}) == ({},)


def test_an_argument_by_name_alone_is_refused():
    with pytest.raises(ValueError, match=r"argument 'scale' of Encoder\.forward can only be given by name"):
        arguments(Encoder(), {"ids": IDS, "scale": 2.0})


class AnyName(nn.Module):
    def forward(self, **batch):
        return batch["ids"]


class ByPosition(nn.Module):
    def forward(self, ids, /, mask=None):
        return ids


class AndMore(nn.Module):
    def forward(self, ids, **more):
        return ids


@pytest.mark.parametrize(("kind", "name"), [(AnyName, "ids"), (AndMore, "mask")])
def test_what_kwargs_take_is_refused(kind, name):
    with pytest.raises(ValueError, match=rf"argument '{name}' of {kind.__name__}\.forward can only be given by name"):
        arguments(kind(), {"ids": IDS, "mask": MASK})
    assert arguments(AndMore(), {"ids": IDS}) == (IDS,)
    assert arguments(ByPosition(), {"mask": MASK, "ids": IDS}) == (IDS, MASK)
    assert arguments(AndMore(), {"image": MASK}) == ({"image": MASK},)


def test_every_door_takes_arguments_by_name():
    inputs = {"ids": IDS, "mask": MASK}
    net = slim.convert(Encoder(), inputs)
    assert slim.cost(net, inputs, 0.5).params < slim.cost(net, inputs).params
    small = slim.extract(net, 0.5, example=inputs)
    slim.set_width(net, 0.5)
    assert torch.allclose(net(**inputs), small(**inputs), atol=1e-6)
    slim.set_width(net, 1.0)
    rule = slim.Sandwich(slim.WidthRange(0.25, 1.0), samples=3)
    losses = rule.backward(net, inputs, lambda out: out.square().mean())
    assert len(losses) == 3 and net.up.weight.grad is not None


def doors(net):
    """What runs a network on batches: name -> a function of one of them."""
    labels = torch.zeros(2, dtype=torch.long)
    return {
        "calibrate": lambda batch: slim.calibrate(net, [batch], [0.5]),
        "search": lambda batch: slim.search(net, lambda m: 0.0, 0.5, example=torch.randn(2, 8), calibrate=[batch]),
        "fit_cascade": lambda batch: slim.fit_cascade(net, [0.5, 1.0], [batch], labels, budget=0.9),
        "backward": lambda batch: slim.Sandwich(slim.WidthRange(0.25)).backward(net, batch, torch.sum),
    }


@pytest.mark.parametrize("door", ["calibrate", "search", "fit_cascade", "backward"])
def test_batches_with_labels_are_explained_at_every_door(door):
    x, y = torch.randn(2, 8), torch.zeros(2, dtype=torch.long)
    net = slim.convert(nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Linear(32, 3)), x)
    slim.calibrate(net, [x], [0.5])
    for kind, batch in (("list", [x, y]), ("tuple", (x, y))):
        with pytest.raises(ValueError, match=f"a batch that is a {kind} .*; give the inputs alone, for example"):
            doors(net)[door](batch)


def test_what_fails_within_forward_is_left_alone():
    class Failing(nn.Sequential):
        def forward(self, x, mask=None):
            if mask is not None:
                x.no_such_attribute()
            return super().forward(x)

    x = torch.randn(2, 8)
    net = slim.convert(Failing(nn.Linear(8, 16), nn.Linear(16, 3)), x)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        doors(net)["backward"]((x, x))


def test_one_tensor_is_no_list_of_batches():
    x, y = torch.randn(2, 8), torch.zeros(2, dtype=torch.long)
    net = slim.convert(nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Linear(32, 3)), x).eval()
    slim.calibrate(net, [x], [0.5])
    for door in (
        lambda: slim.search(net, lambda m: 0.0, 0.5, example=x, calibrate=x),
        lambda: slim.learned_ranking(net, lambda m: 0.0, 0.5, example=x, calibrate=x),
        lambda: slim.channel_scores(net, "taylor", batches=x, loss=lambda m, batch: m(batch).sum()),
        lambda: slim.fit_cascade(net, [0.5, 1.0], x, y, budget=0.9),
    ):
        with pytest.raises(ValueError, match=r"must be a list of batches, .* not one tensor \[2, 8\]"):
            door()


WRAPPERS = {
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "data parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "frozen": lambda net: slim.freeze(net, [0.5, 1.0]),
    "frozen, averaged": lambda net: AveragedModel(slim.freeze(net, [0.5, 1.0])),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_names_are_those_of_the_network_in_a_wrapper(wrap):
    inputs = {"mask": MASK, "ids": IDS}
    assert arguments(wrap(slim.convert(Encoder(), inputs)), inputs) == (IDS, MASK)


def test_what_serves_takes_arguments_by_name(tmp_path):
    inputs = {"ids": IDS, "mask": MASK}
    net = slim.convert(Encoder(), inputs).eval()
    frozen = slim.freeze(net, [0.5, 1.0])
    measured = slim.profile(frozen, inputs, [0.5, 1.0], rounds=2)
    governor = slim.Governor(frozen, measured, budget_ms=1e6)
    expected = net(**inputs)
    for answer in (governor(inputs), governor(**inputs), governor(IDS, MASK), slim.route(frozen, inputs, [1.0, 1.0])):
        torch.testing.assert_close(answer, expected)
    by_name = slim.export(net, tmp_path / "by name", [0.5], inputs, formats=["torch"])
    assert by_name.inputs == slim.export(net, tmp_path / "tuple", [0.5], (IDS, MASK), formats=["torch"]).inputs


class ByKeyword(nn.Module):
    """Layers of every slimmable class, and a norm, called with torch's name of their argument."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ConvTranspose2d(16, 16, 3)
        self.c, self.last = nn.Conv1d(16, 16, 3), nn.Linear(16, 3)

    def forward(self, x):  # [N, 3, H, W] -> [N, 3]
        x = self.b(input=self.norm(input=self.a(input=x)))
        return self.last(input=self.c(input=x.flatten(2)).mean(2))


def test_layers_take_their_input_by_keyword_as_torch_does():
    torch.manual_seed(0)
    net, x = ByKeyword(), torch.randn(2, 3, 8, 8)
    slim.convert(net, x)
    assert net.slim.layout.kept.keys() == {"last"}
    slim.calibrate(net, [x], [0.5])
    slim.set_width(net.eval(), 0.5)
    torch.testing.assert_close(slim.extract(net, 0.5)(x), net(x))
