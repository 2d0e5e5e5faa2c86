"""Whatever lies where records should be: it is refused by file and line, and the sound ones are kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.records.record import Record, read_record, read_records, write_record
from tests.benchmarks.records.records_of import policy, record
from tests.benchmarks.running.toy_run import toy_run, toy_settings
from tests.faults.extent import EXAMPLES, LONG
from tests.faults.outcome import records_below, tables_below

SOUND = record("sandwich", 0, {0.25: 30.0, 1.0: 31.0})
RETURNS = policy("random", 1, {0.25: [1.0, 2.0]}, {0.25: [(10.0, 1.0), (20.0, 2.0)]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_record(SOUND, tmp_path)


def refused(path: Path) -> str:
    """What is said of a file that is no record."""
    with pytest.raises(ValueError) as caught:
        read_record(path)
    told = str(caught.value)
    assert told.startswith(path.name) and "\n" not in told
    return told.removeprefix(path.name)


def test_a_record_cut_off_at_any_byte_is_refused_with_the_line(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 1 if LONG else 5):  # the last is the end of the line
        path.write_bytes(whole[:length])
        line = whole[:length].count(b"\n") + 1
        assert refused(path).startswith((f", line {line}", ", line 1: the file is empty"))


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('"seed": 0', '"seed": "none"', ", line 8: seed: Input should be a valid integer"),
        ('"seed": 0', '"seed": "0"', ", line 8: seed: Input should be a valid integer"),
        ('"seed": 0', '"seed": true', ", line 8: seed: Input should be a valid integer"),
        ('"psnr": 30.0', '"psnr": NaN', ", line 35: NaN is not a finite number"),
        ('"psnr": 30.0', '"psnr": -Infinity', ", line 35: -Infinity is not a finite number"),
        ('"psnr": 30.0', '"psnr": 3e999', ", line 35: 3e999 is not a finite number"),
        ('"psnr": 30.0', '"psnr": 3e200', ", line 35: rows.0.metrics.photos.psnr: 3e+200 is beyond 1e100"),
        ('"psnr": 30.0', f'"psnr": {"7" * 6000}', ", line 35: 77777777... is not a finite number"),
        ('"psnr": 30.0', '"psnr": 30.0,\n"psnr": 31', ", line 36: the key 'psnr' occurs twice"),
        ('"rows": [', '"rows": [],\n"rows": [', ", line 27: the key 'rows' occurs twice"),
        ('"wdsr-a"', "[" * 100_000, ", line 1: it is nested too deep"),
        ('"wdsr-a"', "[" * 300 + "]" * 300, ", line 63, column 211: recursion limit exceeded"),
        ('"wdsr-a"', '"\\ud800"', ", line 63, column 19: unexpected end of hex escape"),
        ('"wdsr-a"', "NaN", ", line 63: NaN is not a finite number"),
        ('"width": 1.0', '"width": 7', ", line 42: rows.1.width: Input should be less than or equal to 1"),
        ('"point": "1"', '"point": "0.25"', ", line 39: rows.1: width 1.0 is named 1, not '0.25'"),
        ('"width": 1.0', '"width": 0.5', ", line 39: rows.1: width 0.5 is named 0.5, not '1'"),
        ('"point": "0.25"', '"point": ""', ", line 27: rows.0: width 0.25 is named 0.25, not ''"),
        ('"point": "1"', '"point": 1', ", line 40: rows.1.point: Input should be a valid string"),
        ('   "width": 0.25,\n', "", ", line 27: rows.0: an operating point of kind width has a width"),
        (
            '"kind": "width"',
            '"kind": "plan"',
            ", line 27: rows.0: an operating point of kind plan has channels, and no width",
        ),
        (
            '"kind": "width"',
            '"kind": "per-input"',
            ", line 27: rows.0: an operating point of kind per-input has no width of its own",
        ),
        ('"kind": "width"', '"kind": "wide"', ", line 29: rows.0.kind: Input should be 'width', 'plan' or 'per-input'"),
        ('"steps"', '"step"', ", line 1: steps: Field required"),
        ('"format": 1', '"format": 2', ", line 2: format: Input should be 1"),
        ('"recipe": "sandwich"', '"recipe": "/.."', ", line 6: recipe: a recipe's name needs a letter or a digit"),
        ('"hash": "', '"hash": "../../', ", line 9: hash: String should match pattern"),
        ('"seconds": 1.0', '"seconds": -1.0', ", line 71: seconds: Input should be greater than or equal to 0"),
        ('"seconds": 1.0', '"seconds" 1.0', ", line 71, column 12: Expecting ':' delimiter"),
    ],
)
def test_what_is_wrong_in_a_record_is_told_with_its_line(before: str, after: str, says: str, path: Path) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    assert refused(path).startswith(says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ", line 1: the file is empty"),
        (b" \n ", ", line 1: the file is empty"),
        (b"null", ", line 1: Input should be an object"),
        (b"[]", ", line 1: Input should be an object"),
        (b"{}", ", line 1: task: Field required"),
        (b"{}\n\nx", ", line 3, column 1: Extra data"),
        (b'{\n"a": "\xff"}', ", line 2: this is no UTF-8 text"),
        ('{"a": 1}'.encode("utf-16"), ", line 1: this is no UTF-8 text"),
        (b"\xef\xbb\xbf{}", ", line 1, column 1: Unexpected UTF-8 BOM"),
        (b"\x00" * 100, ", line 1, column 1: Expecting value"),
    ],
)
def test_a_file_that_is_no_record_is_refused(content: bytes, says: str, path: Path) -> None:
    path.write_bytes(content)
    assert refused(path).startswith(says)


def test_a_file_that_is_far_too_large_is_not_read(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(10**10)
    assert refused(path) == ": 10,000,000,000 bytes are too many for a record"


def strange_files(folder: Path) -> None:
    """Whatever else may lie in a folder of records."""
    (folder / "README.md").write_text("no record")
    (folder / "folder.json").mkdir()
    (folder / "loop.json").symlink_to("loop.json")
    (folder / "nowhere.json").symlink_to("nothing")
    (folder / "device.json").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.json")


STRANGE = {
    "folder.json": "this is no file",
    "loop.json": "Too many levels of symbolic links",
    "nowhere.json": "No such file or directory",
    "device.json": "this is no file",
    "pipe.json": "this is no file",
}


def test_strange_files_do_not_stop_the_reading_of_the_others(path: Path) -> None:
    strange_files(path.parent)
    records, damaged = read_records(path.parent)
    assert records == [SOUND]
    assert {p.name: reason for p, reason in damaged.items()} == {n: f"{n}: {why}" for n, why in STRANGE.items()}


def test_a_copied_record_counts_once_and_is_named(path: Path) -> None:
    for name in ("a copy.json", "z copy.json"):
        (path.parent / name).write_bytes(path.read_bytes())
    records, damaged = read_records(path.parent)
    assert records == [SOUND]
    assert [damaged[path.parent / name] for name in ("a copy.json", "z copy.json")] == [
        f"{name}: a copy of {path.name}; delete one of them" for name in ("a copy.json", "z copy.json")
    ]


def test_a_run_among_damaged_records_makes_its_table_and_ends_with_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy_run(toy_settings(tmp_path, seeds=(0,))) == 0
    before, tables = records_below(tmp_path), tables_below(tmp_path)
    capsys.readouterr()
    (folder,) = tmp_path.rglob("records")
    strange_files(folder)
    (folder / "other-0-123456789abc.json").write_text('{\n "format": 3}')
    victim = next(folder.glob("sandwich-0-*"))
    victim.write_bytes(victim.read_bytes()[:-20])
    assert toy_run(toy_settings(tmp_path, seeds=(0,))) == 1
    told = capsys.readouterr()
    err = told.err.splitlines()
    assert len(err) == len(STRANGE) + 1 and all(line.startswith("error: damaged record, left out: ") for line in err)
    assert any("other-0-123456789abc.json, line 2: format: " in line for line in err)
    assert f"damaged record, trained again; kept as {victim.name}.corrupt: {victim.name}, line " in told.out
    assert tables_below(tmp_path) == tables
    for name in (*STRANGE, "other-0-123456789abc.json"):
        (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()
    assert records_below(tmp_path) == before


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound record of which some values, or some bytes, are others."""
    content = json.loads(draw(st.sampled_from((SOUND, RETURNS))).model_dump_json())
    for _ in range(draw(st.integers(0, 2))):
        _change(content, draw)
    data = bytearray(json.dumps(content, indent=1).encode())
    for _ in range(draw(st.sampled_from((0, 0, 1, 2)))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.sampled_from((0, 1, 1, 7)))] = draw(
            st.binary(max_size=4)
            | st.sampled_from((b"{", b"]", b'"', b",", b"0", b"-", b"e9", b"NaN", b"\\u0000", b"\n"))
        )
    return bytes(data)


def _change(content: Any, draw: st.DrawFn) -> None:
    """Replace, remove or add a value somewhere inside."""
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    if not keys:
        return
    key = draw(st.sampled_from(keys))
    if isinstance(content[key], dict | list) and content[key] and draw(st.integers(0, 3)):
        _change(content[key], draw)
    elif isinstance(content, dict) and draw(st.booleans()):
        del content[key]
        content[draw(st.text(max_size=3))] = draw(plain)
    else:
        content[key] = draw(plain)


@pytest.mark.timeout(7200)
@settings(max_examples=4 * EXAMPLES, derandomize=not LONG, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=mutated())
def test_any_content_is_a_record_or_refused_by_name(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_bytes(data)
    try:
        read = read_record(path)
    except ValueError as error:
        assert type(error) is ValueError
        assert str(error).startswith("mutated.json, line ") and "\n" not in str(error)
    else:
        assert isinstance(read, Record)
        write_record(read, path.parent)
