"""Which images train and which are scored, for each kind of data; never one of them in both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.splits import splits_in
from tasks.sr.folders import Pair, find_pairs, hold_out, without
from tasks.sr.photos import held_out_photos, training_photos
from tasks.sr.settings import BENCHMARK_SETS, SrSettings


@dataclass(frozen=True)
class Source:
    """Files to train on and files to score on: {set name: pairs}.

    name: of the training data, for captions.
    """

    name: str
    train: list[Pair]
    evaluation: dict[str, list[Pair]]


def find_source(settings: SrSettings) -> Source:
    """The images that the settings ask for.

    Raises:
        ValueError: a folder is missing, empty, or leaves nothing to train on.
    """
    if settings.data == "photos":
        return Source("photos", training_photos(), {"photos": held_out_photos()})
    root = Path(settings.root).expanduser()
    return _benchmark(root, settings) if settings.data == "benchmark" else _folder(root, settings)


def _benchmark(root: Path, settings: SrSettings) -> Source:
    names = settings.eval_sets or BENCHMARK_SETS
    for folder in (root / "train", root / "test"):
        if not folder.is_dir():
            raise ValueError(f"data.root={root} has no folder {folder.name}; expected train/<set> and test/<set> in it")
    evaluation = {name: find_pairs(root / "test" / name, settings.scale, "eval") for name in names}
    train = [p for name in settings.train_sets for p in find_pairs(root / "train" / name, settings.scale, "train")]
    return _source(" + ".join(settings.train_sets), train, evaluation)


def _folder(root: Path, settings: SrSettings) -> Source:
    train = find_pairs(root, settings.scale, "train")
    name = root.resolve().name
    if settings.eval_sets:
        paths = [Path(path).expanduser() for path in settings.eval_sets]
        names = [path.resolve().name for path in paths]
        if len(set(names)) < len(names):
            raise ValueError(f"data.eval_sets={list(settings.eval_sets)}: two sets of one name; rename a folder")
        found = [find_pairs(path, settings.scale, "eval") for path in paths]
        return _source(name, train, dict(zip(names, found, strict=True)))
    _check_no_splits(root)
    held_out = find_pairs(root, settings.scale, "eval")
    if {p.high for p in held_out} & {p.high for p in train}:  # a plain folder, not DIV2K's layout
        train, held_out = hold_out(train)
    return _source(name, train, {name: held_out})


def _check_no_splits(root: Path) -> None:
    """Raise ValueError where images to train on and to score on would be mixed, and then split by chance."""
    splits = splits_in(root)
    train = splits.pop("train", "")
    if train and splits:
        scored = next(iter(splits.values()))
        raise ValueError(
            f"data.root={root} has the folders {train} and {scored}, whose images would be mixed; give "
            f"data.root={root / train} 'data.eval_sets=[{root / scored}]'"
        )


def _source(name: str, train: list[Pair], evaluation: dict[str, list[Pair]]) -> Source:
    left = without(train, (pair for pairs in evaluation.values() for pair in pairs))
    if not left:
        raise ValueError(f"every image of {name} is also an evaluation image; nothing is left to train on")
    return Source(name, left, evaluation)
