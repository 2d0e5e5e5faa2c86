"""A network is called with one input, a tuple, or arguments by name."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import slimlib as slim
from slimlib import models
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


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.tail = nn.Linear(4, 16), nn.Sequential(nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3))

    def forward(self, x):
        return self.tail(self.stem(x))


X = torch.ones(2, 4)
RULE = slim.Sandwich(slim.WidthRange(0.25, 1.0))
GATE = slim.SlimmingGate(8, 2)


def score(net):
    return 0.0


@pytest.fixture(scope="module")
def slimmable():
    return slim.convert(Cut(), X)


WRONG = {
    "momentum": (lambda n: slim.calibrate(n, [X], [0.5], momentum="a"), "momentum='a' must be above 0"),
    "norm": (lambda n: slim.convert(Cut(), X, norm=["shared"]), "norm .'shared'. does not exist"),
    "loss": (lambda n: RULE.backward(n, X, None), "loss must be a function of the output, and is NoneType"),
    "forward": (lambda n: RULE.backward(n, X, torch.sum, forward=1), "forward must be a function"),
    "autocast": (lambda n: RULE.backward(n, X, torch.sum, autocast="bf16"), "autocast must be torch.bfloat16"),
    "scaler": (lambda n: RULE.backward(n, X, torch.sum, scaler=2.0), "scaler must be a torch.amp.GradScaler"),
    "graphs": (lambda n: RULE.backward(n, X, torch.sum, graphs=True), "graphs must be slimlib.Graphs"),
    "no network": (lambda n: slim.Graphs(None), "net must be a torch.nn.Module"),
    "state": (lambda n: RULE.load_state_dict([1]), "state must be what state_dict"),
    "distill": (lambda n: slim.l1([1.0], X), "student must be a tensor"),
    "example": (lambda n: slim.cost(n, None), "does not take a batch that is a NoneType"),
    "latency": (lambda n: slim.latency(n, "x"), "does not take a batch that is a str"),
    "profile": (lambda n: slim.profile(n, X, [0.5, "a"]), "profile needs the widths"),
    "plans": (lambda n: slim.plan_costs(n, X)([0.5]), r"plans\[0\] must be"),
    "path": (lambda n: slim.load_plans(None), "the path must be a str or a Path"),
    "score": (lambda n: slim.search(n, None, 0.5, example=X), "score must be a function of the network"),
    "budget": (lambda n: slim.search(n, score, None, example=X), "budget None is neither a share"),
    "Budget": (lambda n: slim.Budget("a"), "budget 'a' is impossible"),
    "method": (lambda n: slim.search(n, score, 0.5, example=X, method=[]), "method .. does not exist"),
    "progress": (lambda n: slim.search(n, score, 0.5, example=X, progress=3), "progress must be True, False or"),
    "ranking": (lambda n: slim.search(n, score, 0.5, example=X, ranking=[1]), "ranking must be what channel_scores"),
    "times": (lambda n: slim.search(n, score, "1 ms", example=X, latency=[1]), "latency must be what latency_table"),
    "tournament": (lambda n: slim.learned_ranking(n, score, 0.5, example=X, tournament="a"), "tournament='a' must be"),
    "seed": (lambda n: slim.latency_table(n, X, seed=None), "seed=None must be a whole number"),
    "scores": (lambda n: slim.sort_channels(n, None), "scores must be what channel_scores"),
    "optimizer": (lambda n: slim.sort_channels(n, slim.channel_scores(n), optimizer=1), "optimizer must be a torch"),
    "rule": (lambda n: slim.sort_channels(n, slim.channel_scores(n), rule="sandwich"), "rule must be a rule"),
    "bands": (lambda n: slim.sort_channels(n, slim.channel_scores(n), bands=0.5), "bands must be a list of widths"),
    "keep": (lambda n: slim.sort_channels(n, slim.channel_scores(n), keep="stem"), "keep='stem' must be of the form"),
    "taylor": (lambda n: slim.channel_scores(n, "taylor", batches=[X], loss=1), "loss must be a function .net, batch."),
    "confidence": (lambda n: slim.Cascade(n, [0.5, 1.0], [0.5], confidence=[]), "confidence=.. must be one of"),
    "points": (lambda n: slim.Cascade(n, [0.5, 1.0], [0.5], path=1), "path must be the settings"),
    "targets": (lambda n: slim.fit_cascade(n, [0.5, 1.0], [X], 3, budget=0.9), "targets must be a tensor"),
    "loss of accuracy": (lambda n: slim.AccuracyLoss("a"), "AccuracyLoss.'a'. must be a number"),
    "before": (lambda n: slim.gated_plans(n, 3, [0.5, 1.0]), "has no module 3"),
    "choices": (lambda n: slim.gated_plans(n, "tail", 0.5), "widths=0.5 must be a list"),
    "gate": (lambda n: slim.SlimmingGate(16, "a"), "needs at least one channel"),
    "stem": (lambda n: slim.Gated(None, n.tail, GATE, [0.5, 1.0]), "stem must be a torch.nn.Module"),
    "widths": (lambda n: slim.Gated(n.stem, n.tail, GATE, []), "widths=.. must be a list of at least two"),
    "gated": (lambda n: slim.GateTraining(n, X), "gated must be a slimlib.Gated"),
    "penalty": (lambda n: slim.GateTraining(n, X, penalty="a"), "penalty='a' must be a number"),
    "size": (lambda n: models.build("mobilenet_v1", size=[224]), "size .224. must be one of"),
    "multiplier": (lambda n: models.build("mobilenet_v1", multiplier="a"), "multiplier 'a' must be"),
    "channels": (lambda n: models.from_channels("mobilenet_v1", 8), "channels must be a list of channel numbers"),
    "checkpoint": (lambda n: models.load_published("us_mobilenet_v1", None), "the path must be a str or a Path"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_what_is_of_another_type_is_refused_where_it_is_given(call, message, slimmable):
    with pytest.raises((TypeError, ValueError), match=message):
        call(slimmable)
