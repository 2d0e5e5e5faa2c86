"""A checkpoint that is damaged or hostile is refused by name; the training then begins anew, or fails alone."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.points import PointResult
from tasks.training.checkpoint import Checkpoint, HostileCheckpointError
from tasks.training.run import Interrupted, TrainingRun, Watch
from tasks.training.supervised import train_recipe
from tests.benchmarks.running.toy_run import RECIPES, toy_run, toy_settings
from tests.faults.extent import LONG, chance
from tests.faults.outcome import differences
from tests.tasks.training.toy import ToyTask

STATE = {"finished": 0, "results": [], "training": {"net": {"weight": torch.arange(6.0)}, "step": 3}}


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def checkpoint(tmp_path: Path, warned: list[str]) -> Checkpoint:
    written = Checkpoint(tmp_path / "abc-0.pt", "abc-0", warn=warned.append)
    written.write(STATE)
    return written


def test_a_checkpoint_cut_off_anywhere_in_its_content_is_set_aside(checkpoint: Checkpoint, warned: list[str]) -> None:
    whole = checkpoint.path.read_bytes()
    end = whole.rindex(b"\nsha256 ")
    lengths = range(end) if LONG else sorted({0, 1, end - 1, *chance().sample(range(end), 60)})
    for length in lengths:
        checkpoint.path.write_bytes(whole[:length])
        assert checkpoint.read() is None
        assert len(warned) == 1 and "abc-0.pt cannot be used (" in warned[0] and "\n" not in warned.pop()
        assert sorted(path.name for path in checkpoint.path.parent.iterdir()) == ["abc-0.pt.corrupt"]


def test_a_changed_byte_is_never_taken_for_the_state(checkpoint: Checkpoint, warned: list[str]) -> None:
    """It is set aside, unless it is a byte of the checksum's mark."""
    whole = checkpoint.path.read_bytes()
    unnoticed = 0
    for place in range(len(whole)) if LONG else sorted(chance().sample(range(len(whole)), 150)):
        checkpoint.path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        read = checkpoint.read()
        assert read is None or same(read, STATE), place
        unnoticed += read is not None
    assert unnoticed <= len("\nsha256 ")


def same(one: Any, other: Any) -> bool:
    return pickle.dumps(_plain(one)) == pickle.dumps(_plain(other))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


class Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


def test_pickles_that_run_code_are_refused_and_not_run(checkpoint: Checkpoint, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    attacks = [
        Runs(os.system, f"touch {witness}"),
        Runs(Path.touch, witness),
        Runs(eval, f"open({str(witness)!r}, 'w')"),
    ]
    for attack in attacks:
        hostile = {"identity": "abc-0", "state": {"training": attack}}
        zipped = io.BytesIO()
        torch.save(hostile, zipped)
        for data in (zipped.getvalue(), pickle.dumps(hostile), pickle.dumps(attack, 0), legacy(hostile)):
            checkpoint.path.write_bytes(data)
            with pytest.raises(HostileCheckpointError, match=r"abc-0\.pt holds more than numbers"):
                checkpoint.read()
            assert checkpoint.path.exists() and not witness.exists()


def legacy(content: Any) -> bytes:
    """As torch wrote it before it wrote archives."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [None, 3, [], {}, {"identity": "abc-0"}, {"identity": "abc-0", "state": [1]}])
def test_what_is_no_state_is_set_aside(content: Any, checkpoint: Checkpoint, warned: list[str]) -> None:
    torch.save(content, checkpoint.path)
    assert checkpoint.read() is None and len(warned) == 1


def test_strange_files_are_set_aside_and_not_waited_for(checkpoint: Checkpoint, warned: list[str]) -> None:
    checkpoint.path.unlink()
    checkpoint.path.symlink_to(checkpoint.path.name)
    assert checkpoint.read() is None and not warned, "a link that leads nowhere is no checkpoint"
    for number, make in enumerate((os.mkfifo, os.mkdir)):
        checkpoint.path.unlink(missing_ok=True)
        make(checkpoint.path)
        assert checkpoint.read() is None
        (checkpoint.path.parent / "abc-0.pt.corrupt").rename(checkpoint.path.parent / f"aside-{number}")
        assert len(warned) == number + 1 and "(it is no file)" in warned[number]
    checkpoint.write(STATE)
    assert same(checkpoint.read(), STATE)


def train(checkpoint: Checkpoint, *, stop_after: int | None = None, recipe: int = 0) -> list[PointResult]:
    """A recipe of the toy task in five steps, or until it is stopped."""
    done = 0

    def stop() -> bool:
        nonlocal done
        done += 1
        return done == stop_after

    return train_recipe(
        ToyTask(), RECIPES[recipe], TrainingRun(5, seed=0, checkpoint=checkpoint, watch=Watch(stop=stop))
    )


@pytest.mark.parametrize("recipe", [0, 2], ids=["individual", "sandwich"])
@pytest.mark.parametrize("change", ["missing", "text"])
def test_a_state_of_another_shape_is_set_aside(change: str, recipe: int, tmp_path: Path, warned: list[str]) -> None:
    expected = train(Checkpoint(tmp_path / "none.pt", "x"), recipe=recipe)
    whole = Checkpoint(tmp_path / "whole.pt", "x")
    with pytest.raises(Interrupted):
        train(whole, stop_after=8 if recipe == 0 else 3, recipe=recipe)
    state = whole.read()
    assert state is not None
    checkpoint = Checkpoint(tmp_path / "changed.pt", "x", every=1e9, warn=warned.append)
    for place in [*((key,) for key in state), *(("training", key) for key in state["training"])]:
        if state["training"].get(place[-1], 0) is None:  # no rule, no scaler
            continue
        changed = whole.read()
        assert changed is not None
        inner = changed if len(place) == 1 else changed["training"]
        inner.pop(place[-1]) if change == "missing" else inner.update({place[-1]: change})
        checkpoint.write(changed)
        assert train(checkpoint, recipe=recipe) == expected, place
        assert "changed.pt cannot be used" in warned.pop(), place


def test_damaged_networks_change_no_result_of_a_run(tmp_path: Path) -> None:
    expected, results = tmp_path / "expected", tmp_path / "results"
    assert toy_run(toy_settings(expected, seeds=(0,))) == 0
    shutil.copytree(expected, results)
    damages = (b"", b"half a file", b"another half", None)
    for damage, path in zip(damages, [*results.rglob("trained/*.pt"), *results.rglob("*.safetensors")], strict=True):
        path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    for path in results.rglob("records/*.json"):
        path.unlink()
    assert toy_run(toy_settings(results, seeds=(0,))) == 0
    for path in results.rglob("*.corrupt"):
        path.unlink()
    assert differences(results, expected) == []
