"""Files that are damaged, of another network, or hostile are refused by name, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slimlib.models import checkpoint_file, load_published
from tests.published import seeded_state

NAME = "s_shufflenet"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return seeded_state(NAME)


@pytest.fixture(scope="module")
def planned() -> State:
    return seeded_state("autoslim_mobilenet_v1")


def saved(content: Any, path: Path, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def without_prefix(state: State) -> State:
    return {key.removeprefix("module."): value for key, value in state.items()}


def without_counts(state: State) -> State:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda state: state, id="bare"),
        pytest.param(lambda state: {"model": without_prefix(state), "epoch": 3}, id="without prefix"),
        pytest.param(without_counts, id="without counts"),
        pytest.param(lambda state: {key: value.half() for key, value in state.items()}, id="half precision"),
    ],
)
def test_every_form_of_a_state_dict_is_read(form: Callable[[State], Any], state: State, tmp_path: Path) -> None:
    net = load_published(NAME, saved(form(state), tmp_path / "file.pt"))
    own = net.state_dict()
    parts = [state[f"module.head_{group}.0.weight"] for group in range(3)]
    torch.testing.assert_close(own["features.0.0.weight"], torch.cat(parts), rtol=1e-3, atol=1e-3)
    assert all(value == 0 for key, value in own.items() if key.endswith("num_batches_tracked"))
    assert {value.dtype for value in net.parameters()} == {torch.float32}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_zip_around_the_file_is_read(legacy: bool, state: State, tmp_path: Path) -> None:
    inner = saved({"model": state}, tmp_path / "inner.pt", _use_new_zipfile_serialization=not legacy)
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        archive.write(inner, "folder/inner.pt")
        archive.writestr("__MACOSX/folder/._inner.pt", b"")
        archive.writestr("README.txt", b"")
    net = load_published(NAME, tmp_path / "file.zip")
    assert torch.equal(net.state_dict()["classifier.0.bias"], state["module.classifier.0.bias"])


def test_loading_leaves_the_random_numbers_of_the_user_alone(state: State, tmp_path: Path) -> None:
    path = saved(state, tmp_path / "file.pt")
    torch.manual_seed(1)
    load_published(NAME, path)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3))


def test_a_name_that_is_none_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no published checkpoint 's_resnet_50'; the nearest is 's_resnet50'"):
        load_published("s_resnet_50", tmp_path / "file.pt")


@pytest.mark.parametrize("name", ["nothing.pt", "."])
def test_what_is_no_file_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load_published(NAME, tmp_path / name)


DAMAGE: dict[str, tuple[Callable[[State], Any], str]] = {
    "missing": (
        lambda s: {k: v for k, v in s.items() if k != "module.features.3.a_1.1.bn.2.running_var"},
        r"file.pt is not a checkpoint of s_shufflenet: missing: 'features.3.a_1.1.bn.2.running_var'$",
    ),
    "unexpected": (lambda s: {**s, "module.extra": torch.zeros(1)}, "unexpected: 'extra'$"),
    "shape": (
        lambda s: {**s, "module.features.0.c_2.1.bn.1.bias": torch.zeros(71)},
        r"of another shape: 'features.0.c_2.1.bn.1.bias' is \[71\], expected \[72\]",
    ),
    "many": (lambda s: dict(list(s.items())[60:]), r"missing: 'head_0.0.weight', .* and \d+ more"),
    "half a prefix": (lambda s: {**s, "extra": torch.zeros(1)}, "missing: 'head_0.0.weight'"),
    "whole numbers": (
        lambda s: {**s, "module.classifier.0.bias": torch.zeros(1000, dtype=torch.long)},
        "'module.classifier.0.bias' is a tensor of torch.int64, and must be",
    ),
    "no tensor": (lambda s: {**s, "module.classifier.0.bias": [1.0]}, "'module.classifier.0.bias' is a list"),
    "sparse": (
        lambda s: {**s, "module.classifier.0.weight": torch.zeros(1000, 1920).to_sparse()},
        "'module.classifier.0.weight' is a tensor of another layout",
    ),
    "expanded": (
        lambda s: {**s, "module.classifier.0.weight": torch.zeros(1).expand(1000, 1920)},
        r"'module.classifier.0.weight' is a tensor \[1000, 1920\] of fewer values than that",
    ),
    "key": (lambda s: {**s, 7: torch.zeros(1)}, "a key that is no text, but a int"),
    "list": (lambda s: list(s.values()), "holds a list where a state dict is expected"),
    "model": (lambda s: {"model": 5}, "holds a int where a state dict is expected"),
    "empty": (lambda s: {}, "holds an empty dict where a state dict is expected"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_in_a_file_is_named(damage: str, state: State, tmp_path: Path) -> None:
    change, message = DAMAGE[damage]
    with pytest.raises(ValueError, match=message):
        load_published(NAME, saved(change(state), tmp_path / "file.pt"))


def test_a_file_of_another_network_is_refused(state: State, tmp_path: Path) -> None:
    path = saved(state, tmp_path / "file.pt")
    with pytest.raises(
        ValueError, match="is not a checkpoint of s_mobilenet_v1: missing: 'features.0.*; unexpected: 'head_"
    ):
        load_published("s_mobilenet_v1", path)
    with pytest.raises(
        ValueError, match="is not a checkpoint of autoslim_mnasnet: missing: 'features.0.1.bn.0.weight'"
    ):
        load_published("autoslim_mnasnet", path)


PLANNED_DAMAGE: dict[str, tuple[Callable[[State], Any], str]] = {
    "missing norm": (
        lambda s: {k: v for k, v in s.items() if k != "module.features.2.body.4.bn.1.weight"},
        "missing: 'features.2.body.4.bn.1.weight'",
    ),
    "missing weight": (
        lambda s: {k: v for k, v in s.items() if k != "module.features.2.body.3.weight"},
        "missing: 'features.2.body.3.weight'",
    ),
    "huge norm": (
        lambda s: {**s, "module.features.2.body.4.bn.2.weight": torch.ones(10**6)},
        r"'features.2.body.3.weight' is \[128, 64, 1, 1\], expected \[1000000, 64, 1, 1\]",
    ),
    "other depthwise": (
        lambda s: {**s, "module.features.2.body.1.bn.0.weight": torch.ones(31)},
        r"'features.2.body.1.bn.0.weight' is \[31\], expected \[32\]",
    ),
    "one switch twice": (
        lambda s: {k: s[k.replace(".bn.1.", ".bn.0.")] for k in s},
        "each WidthPlan must be there only once",
    ),
}


@pytest.mark.parametrize("damage", PLANNED_DAMAGE)
def test_what_is_wrong_in_a_file_with_plans_is_named(damage: str, planned: State, tmp_path: Path) -> None:
    change, message = PLANNED_DAMAGE[damage]
    with pytest.raises(ValueError, match=message):
        load_published("autoslim_mobilenet_v1", saved(change(planned), tmp_path / "file.pt"))


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "wrapped"])
def test_code_in_a_file_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "file.pt"
    content = {"model": {"module.classifier.0.bias": torch.zeros(3), "extra": Hostile(made)}}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content["model"]["extra"]))
    else:
        saved(content, path, _use_new_zipfile_serialization=form != "legacy")
    if form == "wrapped":
        with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
            archive.write(path, "file.pt")
        path = tmp_path / "file.zip"
    with pytest.raises(ValueError, match=rf"{path.name}: .*nothing of it was run"):
        load_published(NAME, path)
    assert not made.exists()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_half_a_file_is_refused(part: float, legacy: bool, tmp_path: Path) -> None:
    whole = saved({"a": torch.ones(500)}, tmp_path / "whole.pt", _use_new_zipfile_serialization=not legacy).read_bytes()
    path = tmp_path / "file.pt"
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match=r"file\.pt: (refused|cannot be read)"):
        load_published(NAME, path)


def test_garbage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(ValueError, match=r"file\.pt: (refused|cannot be read)"):
        load_published(NAME, path)


@pytest.mark.parametrize("count", [0, 2])
def test_a_zip_of_none_or_several_is_refused(count: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        archive.writestr("README.txt", b"")
        for number in range(count):
            archive.writestr(f"{number}.pt", b"")
    with pytest.raises(ValueError, match=f"a zip with {count} .pt files in it"):
        load_published(NAME, tmp_path / "file.zip")


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_file, "LARGEST", 1000)
    with zipfile.ZipFile(tmp_path / "file.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("file.pt", b"0" * 1001)
    with pytest.raises(ValueError, match="unpacks to 1,001 bytes, too many"):
        load_published(NAME, tmp_path / "file.zip")
