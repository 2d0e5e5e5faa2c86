"""The classification task, as the runner uses it."""

import hashlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slimlib as slim
from slimlib import models
from tasks.classification.settings import ClassificationSettings
from tasks.classification.task import Classification
from tasks.points import OperatingPoint
from tasks.training.ranks import Shard
from tests.extent import at_night
from tests.tasks.classification.small_files import draw

SMALL = {"model": "resnet18", "multiplier": 0.125, "divisor": 2, "batch": 8, "lr": 0.1, "normalisation": "data"}
DIGITS = SMALL | {"data": "digits", "size": 8}


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Two classes of images of unequal sizes."""
    root = tmp_path_factory.mktemp("mine")
    for i in range(20):
        draw(root / ("cats" if i % 2 else "dogs") / f"{i:02}.png", 20 + i, 40 - i, seed=i)
    return root


def task_of(**given):
    return Classification(ClassificationSettings(**DIGITS | given))


def folder_task(root, **given):
    return task_of(data="folder", root=str(root), size=12, **given)


def collect(batches):
    images, labels = zip(*batches, strict=True)
    return torch.stack(images), torch.stack(labels)


def test_what_it_says_of_itself(mine):
    task = task_of()
    assert (task.name, task.eval_sets) == ("classification", ("held-out",))
    assert task.dataset == "digits, 1,438 images of 10 classes, 8 a step"
    assert task.protocol == "Top-1 and top-5 error in % on held-out (359 images), whole, 8 x 8"
    assert [metric.name for metric in task.metrics] == ["top1_error", "top5_error"]
    assert task.baselines() == {"chance": {"held-out": {"top1_error": 90.0, "top5_error": 50.0}}}
    task = folder_task(mine)
    assert task.protocol == "Top-1 error in % on held-out (2 images), scaled to 14, the middle 12 x 12"
    assert task.baselines() == {"chance": {"held-out": {"top1_error": 50.0}}}


BY_DAY = [("mobilenet_v1", "batch"), ("mobilenet_v2", "batch"), ("resnet50", "batch"), ("resnet18", "group")]
EVERY = [(model, norm) for model in models.NAMES for norm in ("batch", "group")]


@pytest.mark.parametrize(("model", "norm"), [one if one in BY_DAY else at_night(*one) for one in EVERY])
def test_every_network_converts_and_trains_at_every_width(model, norm):
    task = task_of(model=model, multiplier=0.25, divisor=0)
    net = task.build(norm=norm)
    assert next(net.parameters()).is_contiguous(memory_format=torch.channels_last)
    assert any(isinstance(m, torch.nn.GroupNorm) for m in net.modules()) == (norm == "group")
    slim.convert(net, task.example(), **task.channel_rule(net))
    rule = slim.Sandwich(slim.WidthRange(0.25, 1.0), samples=3)
    (x, target), *_ = task.batches(range(1), 0)
    losses = rule.backward(net, x, lambda output: task.loss(output, target))
    assert len(losses) == 3 and all(loss.isfinite() for loss in losses.values())


def test_an_individual_network_has_the_channels_of_the_slimmable_one():
    task = task_of()
    net = task.build()
    slim.convert(net, task.example(), **task.channel_rule(net))
    assert slim.cost(net, task.example(), 0.25) == slim.cost(task.build(0.25), task.example(), 1.0)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm 'layer' does not exist"):
        task_of().build(norm="layer")


CROPS = [{"crop": "resized"}, {"crop": "padded"}, {"crop": "none"}]


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_a_resumed_run_sees_the_same_batches(kind, crop, augmented, mine):
    task = task_of(**crop) if kind == "digits" else folder_task(mine, **crop)
    state = torch.get_rng_state()
    whole = collect(task.batches(range(6), 7, augmented=augmented))
    tail = collect(task.batches(range(3, 6), 7, augmented=augmented))
    assert all(torch.equal(a[3:], b) for a, b in zip(whole, tail, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(whole[0], collect(task.batches(range(6), 8, augmented=augmented))[0])
    assert whole[0].shape == (6, 8, 3, task.settings.size, task.settings.size)
    assert whole[0].isfinite().all()


@given(st.integers(1, 8), st.sampled_from(CROPS), st.booleans(), st.booleans(), st.integers(0, 1000))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shards_together_are_the_whole_batch(mine, count, crop, equal_sizes, augmented, seed):
    task = task_of(**crop) if equal_sizes else folder_task(mine, **crop)
    images, labels = collect(task.batches(range(2, 4), seed, augmented=augmented))
    for index in range(count):
        part = task.batches(range(2, 4), seed, shard=Shard(index, count), augmented=augmented)
        for step, (x, target) in enumerate(part):
            assert torch.equal(x, images[step, index::count])
            assert torch.equal(target, labels[step, index::count])


def test_workers_change_nothing(mine):
    alone, helped = (folder_task(mine, workers=workers).batches(range(3), 0) for workers in (0, 2))
    assert all(torch.equal(a, b) for a, b in zip(collect(alone), collect(helped), strict=True))


def test_plain_images_are_as_evaluation_sees_them(mine):
    task = folder_task(mine, resize=16)
    x, target = next(task.batches(range(1), 0, augmented=False))
    seen = next(task._plain(task._train, [range(len(task._train))], torch.device("cpu")))
    for image, label in zip(x, target, strict=True):
        assert any(torch.equal(image, other) and label == its for other, its in zip(*seen, strict=True))


def test_widths_are_scored_as_each_alone_on_every_set():
    task = task_of(hold_out=100)
    net = task.build()
    slim.convert(net, task.example(), **task.channel_rule(net))
    slim.calibrate(net, [x for x, _ in task.batches(range(3), 0)], widths=[0.25, 0.5, 1.0])
    slim.set_width(net, 0.5)
    together = task.evaluate(net.train(), [OperatingPoint.of_width(width) for width in (1.0, 0.25)])
    assert net.training and slim.current_width(net) == 0.5
    assert [tuple(scores) for scores in together] == [("held-out", "search")] * 2
    for width, scores in zip([1.0, 0.25], together, strict=True):
        slim.set_width(net, width)
        assert task.evaluate(net) == [scores]
    assert all(set(scores["search"]) == {"top1_error", "top5_error"} for scores in together)


def train(task, steps):
    torch.manual_seed(0)
    net = task.build()
    optimizer, scheduler = task.optimizer(net, steps)
    trace = []
    for x, target in task.batches(range(steps), 0):
        loss = task.loss(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trace.append((optimizer.param_groups[0]["lr"], loss.item()))
        scheduler.step()
    return net, trace


def test_a_short_training_beats_chance():
    task = task_of(crop="none", flip=False, jitter=0.0, lighting=0.0, batch=64)
    net, _ = train(task, 40)
    assert task.evaluate(net)[0]["held-out"]["top1_error"] < 30


def fingerprint(**given):
    """Of everything that a short run makes: shapes, images, rates, losses, weights, scores."""
    task = Classification(ClassificationSettings(**given))
    net, trace = train(task, 3)
    plain = next(task.batches(range(1), 0, augmented=False))
    narrow = [tuple(p.shape) for p in task.build(0.3).parameters()]
    weights = [p.detach().numpy().tobytes() for p in net.parameters()]
    strides = [m.stride for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    made = (task.widths, trace, plain[0].numpy().tobytes(), narrow, weights, strides, task.evaluate(net))
    return hashlib.sha256(repr(made).encode()).hexdigest()


CHANGES = [
    ({"model": "mobilenet_v1"}, {}),
    ({"multiplier": 0.25}, {}),
    ({"divisor": 4}, {"multiplier": 0.25}),
    ({"size": 9}, {}),
    ({"variant": 64}, {}),
    ({"widths": [1.0]}, {}),
    ({"batch": 9}, {}),
    ({"lr": 0.2}, {}),
    ({"momentum": 0.8}, {}),
    ({"nesterov": False}, {}),
    ({"weight_decay": 0.1}, {}),
    ({"schedule": "cosine"}, {}),
    ({"milestones": [0.7]}, {"schedule": "step"}),
    ({"decay": 0.5}, {"schedule": "step"}),
    ({"decay": 0.5}, {"schedule": "exponential", "batch": 800}),
    ({"warmup": 0.7}, {}),
    ({"label_smoothing": 0.1}, {}),
    ({"crop": "none"}, {}),
    ({"area": 0.9}, {}),
    ({"area": 0.9}, {"data": "folder", "size": 12}),
    ({"padding": 1}, {"crop": "padded"}),
    ({"flip": False}, {}),
    ({"jitter": 0.2}, {}),
    ({"lighting": 0.2}, {}),
    ({"normalisation": "imagenet"}, {}),
    ({"resize": 12}, {"data": "folder", "size": 12}),
    ({"data": "folder"}, {"size": 12}),
    ({"hold_out": 50}, {}),
]


@pytest.mark.parametrize(("change", "base"), CHANGES, ids=lambda given: ",".join(f"{k}={v}" for k, v in given.items()))
def test_every_setting_changes_what_is_trained(change, base, mine):
    def settings_of(given):
        given = DIGITS | given
        return given | ({"root": str(mine)} if given["data"] == "folder" else {})

    assert fingerprint(**settings_of(base | change)) != fingerprint(**settings_of(base))


def test_no_setting_is_left_out():
    conveniences = {"workers", "cache_gb", "root"}  # which folder: see `data`
    assert {key for change, _ in CHANGES for key in change} == set(ClassificationSettings.model_fields) - conveniences


@pytest.mark.parametrize("convenience", [{"workers": 1}, {"cache_gb": 0.0}])
def test_conveniences_change_nothing(convenience, mine):
    given = DIGITS | {"data": "folder", "root": str(mine), "size": 12}
    assert fingerprint(**given | convenience) == fingerprint(**given)


def test_the_showcase_shows_a_guess_of_every_network_below_each_image():
    task = task_of()
    always_seven = torch.zeros(10)
    always_seven[7] = 5.0
    nets = {"width 0.25": lambda x: always_seven.expand(len(x), 10), "width 1": task.build().eval()}
    figure = task.showcase(nets).figure
    assert [cell.get_title() for cell in figure.axes] == [str(digit) for digit in range(10)]
    texts = [text.get_text() for text in figure.axes[3].texts]
    assert len(texts) == 2 and texts[0] == "7 94 %"
    assert "width 0.25" in [text.get_text() for text in figure.axes[0].texts]
    assert "1 at width 0.25" in figure.get_suptitle()


def test_only_free_images_are_shown(mine):
    assert folder_task(mine).showcase({}) is None
