"""The files of what was published, and of what stands beside it: a wrong one is refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.papers.beside import composed
from benchmarks.papers.published import PUBLISHED, flat, read_published


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("tables.yaml", "ours.yaml"):
        shutil.copy(PUBLISHED / name, tmp_path / name)
    return tmp_path


def change(path: Path, *keys: Any, to: Any) -> None:
    content = yaml.safe_load(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("file", "keys", "to", "message"),
    [
        ("tables", ("tables", "wdsr_div2k_x2", "rows", 0), [1, 2], "table wdsr_div2k_x2: row 0 has 2 values for 4"),
        ("tables", ("tables", "s_resnet50", "rows", 1, 1), None, "s_resnet50: row 1 has no number for 'top1_error'"),
        (
            "tables",
            ("tables", "s_resnet50", "metric"),
            "top1",
            "metric 'top1' is none of the columns width, top1",
        ),
        (
            "tables",
            ("tables", "s_resnet50", "source"),
            "slimable",
            "unknown source 'slimable'; did you mean 'slimm",
        ),
        (
            "tables",
            ("tables", "s_resnet50", "unit"),
            "%",
            "table s_resnet50: unit: Input should be 'percent', 'dB' or 'times'",
        ),
        ("tables", ("tables", "s_resnet50", "colums"), [], "table s_resnet50: colums: Extra inputs"),
        ("tables", ("tables",), [], "tables.yaml needs 'tables', a value for each name"),
        ("ours", ("tables", "s_resnet5"), [], "unknown table 's_resnet5'; did you mean 's_resnet50'"),
        ("ours", ("tables", "wdsr_div2k_x2", 0, "rows"), [7], "table wdsr_div2k_x2: there is no row 7; it has 0 to 2"),
        ("ours", ("comparable",), {}, "table s_mobilenet_v1: unknown data set 'ImageNet-1k val'"),
        ("ours", ("ablations", 0, "runs"), [], "ablation 0: needs either runs, or missing"),
        ("ours", ("ablations", 0, "source"), "usnets", "unknown source 'usnets'; did you mean 'us_nets'"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name_and_the_table(
    copy: Path, file: str, keys: tuple[Any, ...], to: Any, message: str
) -> None:
    change(copy / f"{file}.yaml", *keys, to=to)
    with pytest.raises(ValueError) as refused:
        read_published(copy)
    assert message in str(refused.value) and f"{file}.yaml" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"), [("a: [", "is not valid YAML"), ("5", "must hold"), (None, "cannot be read")]
)
def test_a_file_that_is_no_yaml_is_refused_in_one_line(copy: Path, content: str | None, message: str) -> None:
    path = copy / "tables.yaml"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_published(copy)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_run_that_cannot_be_composed_is_named() -> None:
    with pytest.raises(ValueError, match="the run 'task=sr ablation=sandwitch' cannot be composed: unknown ablation"):
        composed(("task=sr", "ablation=sandwitch"))


def test_lists_within_a_run_are_its_words() -> None:
    assert flat([["a=1", ["b=2"]], "c=3"]) == ("a=1", "b=2", "c=3")
