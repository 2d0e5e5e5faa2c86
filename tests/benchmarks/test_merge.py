"""Records of several machines become one folder, the same whatever is merged first, and however often."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import merge as merging
from benchmarks.merge import Found, choose, main, merge
from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import Record, read_record, read_records, write_record
from tests.benchmarks.records.records_of import record

PLACE = "sr/sandwich/tiny"
ONE = {0.25: 30.0, 1.0: 32.0}
OTHER = {0.25: 30.1, 1.0: 32.0}


def made(**changes: Any) -> Record:
    plain: dict[str, Any] = {"recipe": "sandwich", "seed": 0, "values": ONE, "commit": "0123456789ab"}
    return record(**plain | changes)


RECORDS = st.lists(
    st.builds(
        made,
        seed=st.sampled_from((0, 1)),
        values=st.sampled_from((ONE, OTHER)),
        commit=st.sampled_from((None, "0123456789ab", "0123456789ab-dirty")),
        versions=st.sampled_from(({"slimlib": "0.9.0"}, {"slimlib": "0.10.0"}, {})),
        seconds=st.sampled_from((1.0, 2.0)),
    ),
    min_size=1,
    max_size=3,
)
"""What one machine has; the later of two with the same name has overwritten the first."""


def fill(results: Path, records: Sequence[Record], place: str = PLACE) -> Path:
    for one in records:
        write_record(one, results / place / "records")
    return results


def state(results: Path, place: str = PLACE) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results / place / "records").iterdir()}


def merged(tmp: Path, *sources: Path) -> Path:
    """Each source merged into a new folder, one by one."""
    target = Path(tempfile.mkdtemp(dir=tmp))
    for source in sources:
        merge([source], target)
    return target


@given(st.lists(RECORDS, min_size=2, max_size=3))
@settings(max_examples=12, deadline=None)
def test_neither_order_nor_grouping_nor_repetition_matters(machines: list[list[Record]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        sources = [fill(tmp / str(number), records) for number, records in enumerate(machines)]
        expected = state(merged(tmp, *sources))
        for order in permutations(sources):
            assert state(merged(tmp, *order)) == expected
        at_once = tmp / "at once"
        merge(sources, at_once)
        assert state(at_once) == expected
        assert state(merged(tmp, sources[0], merged(tmp, *sources[1:]))) == expected
        assert state(merged(tmp, *sources, *sources)) == expected
        assert state(merged(tmp, merged(tmp, *sources), *sources)) == expected


@given(RECORDS, RECORDS, st.integers(min_value=0, max_value=6))
@settings(max_examples=25, deadline=None)
def test_a_merge_that_was_killed_and_is_repeated_gives_the_same(
    ours: list[Record], theirs: list[Record], survives: int
) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        tmp = Path(name)
        source, target, other = fill(tmp / "theirs", theirs), fill(tmp / "ours", ours), fill(tmp / "other", ours)
        merge([source], other)
        before = read_records(target / PLACE / "records")[0]
        writes = iter(range(survives))
        write = merging.write_atomically

        def killed(path: Path, content: bytes | str) -> None:
            if next(writes, None) is None:
                raise KeyboardInterrupt
            write(path, content)

        patch.setattr(merging, "write_atomically", killed)
        try:
            merge([source], target)
        except KeyboardInterrupt:
            kept = [read_record(path) for path in (target / PLACE / "records").iterdir()]
            assert all(any((k.rows, k.seed) == (own.rows, own.seed) for k in kept) for own in before)
        patch.setattr(merging, "write_atomically", write)
        merge([source], target)
        assert state(target) == state(other)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"commit": "0123456789ab"}, {"commit": "fedcba987654-dirty", "versions": {"slimlib": "9"}}),
        ({"commit": "0123456789ab"}, {"commit": None}),
        ({"versions": {"slimlib": "0.10.0", "torch": "2.9"}}, {"versions": {"slimlib": "0.9.0", "torch": "2.13"}}),
        ({"versions": {"torch": "2.13.0+cpu"}}, {"versions": {"torch": "2.9.1"}}),
    ],
)
def test_the_rule_says_which_of_two_measurements_counts(better: dict[str, Any], worse: dict[str, Any]) -> None:
    for values in ((ONE, OTHER), (OTHER, ONE)):  # whatever they measured
        found = [Found(Path(), made(values=v, **of)) for v, of in zip(values, (better, worse), strict=True)]
        assert choose(found) == found and choose(found[::-1]) == found


def test_the_same_measurement_is_kept_once() -> None:
    slow, quick = (Found(Path(), made(seconds=seconds, host=host)) for seconds, host in ((9.0, "a"), (1.0, "b")))
    assert len(choose([slow, quick])) == 1


def test_tables_are_made_from_all_records_and_the_rest_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = fill(tmp_path / "ours", [made(seed=0), made(seed=1, values=OTHER, commit="0123456789ab-dirty")])
    theirs = fill(tmp_path / "theirs", [made(seed=1), made(seed=2)])
    fill(theirs, [made(seed=0, data="Urban100")], f"{PLACE}/Urban100")
    assert main([f"from={theirs}", f"to={ours}"]) == 0
    out = capsys.readouterr().out
    assert f"2 records are new in {ours}, 1 were there; 2 tables made again" in out
    assert "sandwich, seed 1: 2 measurements; that of commit 0123456789ab on a CPU, 2 cores counts, kept aside: " in out
    assert "a clean commit, the newer slimlib, the newer torch, the larger SHA-256" in out
    records, damaged = ResultsFolder(ours / PLACE).read()
    assert [(one.seed, one.commit) for one in records] == [(seed, "0123456789ab") for seed in (0, 1, 2)]
    assert not damaged
    for place in (PLACE, f"{PLACE}/Urban100"):
        assert (ours / place / "table.csv").exists()
    assert "seeds 0, 1, 2" in (ours / PLACE / "table.md").read_text()


def test_damaged_and_misplaced_records_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = fill(tmp_path / "theirs", [made(seed=0), made(seed=1)])
    half = theirs / PLACE / "records" / made(seed=1).file_name
    half.write_text(half.read_text()[:100])
    fill(theirs, [made(seed=2)], "sr/norm/tiny")
    ours = fill(tmp_path / "ours", [made(seed=0)])
    broken = ours / PLACE / "records" / made(seed=0).file_name
    broken.write_text("{")
    assert main([f"from={theirs}", f"to={ours}"]) == 1
    err = capsys.readouterr().err
    assert err.count("error: damaged record, left out:") == 3
    assert half.name in err and broken.name in err and "it says that it is of sr/sandwich/tiny/photos" in err
    assert set(state(ours)) == {broken.name, f"{broken.name}.corrupt"}, (
        "a sound record takes the place of a damaged one"
    )
    assert main([f"from={theirs}", f"to={ours}"]) == 1


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, ours = fill(tmp_path / "theirs", [made()]), tmp_path / "ours"
    with ResultsFolder(ours / PLACE).locked():
        assert main([f"from={theirs}", f"to={ours}"]) == 3
    assert "another run is working in" in capsys.readouterr().err
    assert not (ours / PLACE / "records").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "say where the records are, for example from=their/results"),
        ("form=a", "unknown key 'form'; did you mean 'from'?"),
        ("from={tmp}/nowhere", "nowhere is not a folder; name one that python -m benchmarks.run has written to"),
        ("from={tmp}/ours to={tmp}/ours", "are the same folder, or one lies in the other"),
        ("from={tmp}/ours to={tmp}", "are the same folder, or one lies in the other"),
        (
            "from={tmp}/ours/sr to={tmp}/new",
            "has no <task>/<ablation>/<scale>/records; name the folder above the tasks",
        ),
    ],
)
def test_wrong_folders_are_refused_in_one_line(
    arguments: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "ours", [made()])
    assert main(arguments.format(tmp=tmp_path).split()) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("error: ") and err.count("\n") == 1 and not out


def test_help_states_the_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "a commit without local changes counts, then the newer slimlib, then the newer torch" in shown
