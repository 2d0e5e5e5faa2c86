"""What the papers claim stands beside what records say, and no claim is confirmed that they do not carry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.analysis.collecting import collect
from benchmarks.analysis.results import Results
from benchmarks.papers.claims import NOT_RUN, Claim, Compared, Row, Timed, checked, read_claims
from benchmarks.perf.measurement import Machine, Measurement
from benchmarks.perf.records import write
from benchmarks.perf.timing import Spread
from benchmarks.running.command import DONE, WRONG_SETTINGS
from benchmarks.settings.choices import choices, content
from benchmarks.settings.task import settings_of
from benchmarks.tables.__main__ import main
from benchmarks.tables.claims import BEGIN, END, claims_page
from tests.benchmarks.records.records_of import policy, record

ROOT = Path(__file__).parents[3]
TABLE = "sr/sandwich/tiny"


def found(one: Compared, individual: Sequence[float], sandwich: Sequence[float]) -> Row:
    """Where these are the PSNRs of the seeds at width 1."""
    values = {"individual": individual, "sandwich": sandwich}
    records = [record(name, seed, {1.0: psnr}) for name, of in values.items() for seed, psnr in enumerate(of)]
    (row,) = checked([Claim(claim="it is so", seen=(one,))], {TABLE: [Results(records)]}, Path("nowhere"))
    return row


def gain(**changes: object) -> Compared:
    return Compared(
        **{"where": "photos", "table": TABLE, "recipe": "sandwich", "beats": "individual", "at": (1,)} | changes
    )


@pytest.mark.parametrize(
    ("individual", "sandwich", "confirmed", "seen"),
    [
        ([30.0, 30.1, 30.2], [31.0, 31.1, 31.2], "yes", "photos: +1.00 ± 0.14 at 1 (dB)"),
        ([30.0, 30.1, 30.2], [30.1, 30.2, 30.3], "no", "photos: +0.10 ± 0.14 at 1 (dB)"),
        ([31.0, 31.1, 31.2], [30.0, 30.1, 30.2], "no", "photos: -1.00 ± 0.14 at 1 (dB)"),
        ([30.0], [30.1], "yes, one seed", "photos: +0.10 at 1 (dB, one seed)"),
        ([30.0, 30.2, 29.0], [30.1, 30.3], "no", "photos: +0.10 ± 0.66 at 1 (dB, two seeds)"),
        ([30.0, 30.1, 30.2], [30.3], "yes", "photos: +0.30 ± 0.14 at 1 (dB, one seed)"),
        ([30.0], [29.999], "no, one seed", "photos: +0.00 at 1 (dB, one seed)"),
    ],
)
def test_a_gain_must_exceed_the_spread(
    individual: list[float], sandwich: list[float], confirmed: str, seen: str
) -> None:
    row = found(gain(), individual, sandwich)
    assert (row.confirmed, row.seen) == (confirmed, seen)


def test_equality_allows_to_be_behind_by_so_much() -> None:
    alike = {"beats": "", "equals": "individual", "within": 0.2}
    assert found(gain(**alike), [30.0], [29.85]).confirmed == "yes, one seed"
    assert found(gain(**alike), [30.0], [29.75]).confirmed == "no, one seed"
    assert found(gain(**alike), [30.0], [32.0]).confirmed == "yes, one seed"


def test_points_of_which_some_hold_confirm_partly_and_unknown_ones_count_not() -> None:
    values = {"individual": {0.25: 30.0, 1.0: 32.0}, "sandwich": {0.25: 31.0, 1.0: 31.0}}
    tables = {TABLE: [Results([record(name, 0, of) for name, of in values.items()])]}
    claims = [Claim(claim=str(at), seen=(gain(at=at),)) for at in [(0.25, 1), (0.25, 0.5), (0.5,)]]
    assert [row.confirmed for row in checked(claims, tables, Path("nowhere"))] == [
        "partly, one seed",
        "yes, one seed",
        NOT_RUN,
    ]
    assert [row.confirmed for row in checked(claims, {}, Path("nowhere"))] == [NOT_RUN] * 3


def test_seeds_that_both_have_are_compared_though_others_have_five() -> None:
    records = [policy("individual", seed, {1.0: [10.0 + seed]}) for seed in range(5)]
    records += [policy("sandwich", seed, {1.0: [20.0 + seed]}) for seed in range(3)]
    (row,) = checked([Claim(claim="it is so", seen=(gain(),))], {TABLE: [Results(records)]}, Path("nowhere"))
    assert (row.confirmed, row.seen) == ("yes", "photos: +10.0 ± 1.9 at 1 (return)")


def test_records_of_other_settings_in_the_same_folder_count_not() -> None:
    def at(scale: int, sandwich: float, seeds: int) -> Results:
        values = {"individual": 30.0, "sandwich": sandwich}
        settings = {"model": "wdsr-a", "scale": scale}
        return Results(record(n, s, {1.0: v}, settings=settings) for n, v in values.items() for s in range(seeds))

    tables = {TABLE: [at(4, 29.0, 3), at(2, 31.0, 1)]}
    claims = [Claim(claim=str(scale), seen=(gain(task={"scale": scale}),)) for scale in (2, 3, 4)]
    rows = checked(claims, tables, Path("nowhere"))
    assert [row.confirmed for row in rows] == ["yes, one seed", NOT_RUN, "no, one seed"]
    assert list(rows[0].commands) == ["python -m benchmarks.run task=sr ablation=sandwich scale=tiny task.scale=2"]


def test_timings_are_held_against_their_bounds(tmp_path: Path) -> None:
    measured = Measurement("inference memory", "ResNet-50", "width 0.5", Spread.of([48.0]), unit="%")
    write(tmp_path, [measured], Machine("a CPU", 1, "2", "cpu"), rounds=1)
    timed = {"where": "ResNet-50", "timed": "inference memory", "row": "width 0.5", "part": "footprint"}
    bounds = [{"most": 50.0}, {"most": 40.0}, {"least": 40.0}, {"least": 50.0}]
    claims = [Claim(claim="small", seen=(Timed(**timed, **bound),)) for bound in bounds]
    rows = checked(claims, {}, tmp_path)
    assert [row.confirmed for row in rows] == ["yes", "no", "yes", "no"]
    assert rows[0].seen == "ResNet-50: 48 % at width 0.5"
    assert dict(rows[0].commands) == {"python -m benchmarks.perf footprint": "perf"}


def test_every_claim_is_about_recipes_and_runs_that_there_are() -> None:
    claims = read_claims()
    assert len({claim.claim for claim in claims}) == len(claims)
    for one in (one for claim in claims for one in claim.seen):
        if isinstance(one, Compared):
            task, ablation, scale, *data = one.table.split("/")
            names = {
                recipe["name"].replace("${smallest}", "0.25") for recipe in content("ablation", ablation)["recipes"]
            }
            tuned = {f"{name}, tuned" for name in names}
            assert {one.recipe, one.beats or one.equals} <= names | tuned, one
            assert bool(one.beats) != bool(one.equals)
            assert scale in choices("scale")
            assert set(data) <= set(choices("data"))
            assert task in content("ablation", ablation).get("tasks", [task])
            assert set(one.task) <= set(settings_of(task).model_fields)


def test_notes_hold_no_numbers_that_records_could_contradict() -> None:
    assert not [claim.note for claim in read_claims() if re.search(r"\d", claim.note)]


def test_the_committed_page_has_the_table_of_the_committed_records() -> None:
    page = ROOT / "docs" / "results.md"
    assert claims_page(page, collect(ROOT / "results"), ROOT / "results") == page.read_text(encoding="utf-8")


def test_the_command_writes_between_the_marks_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\nafter\n")
    assert main([f"results={tmp_path / 'results'}", f"claims={page}"]) == DONE
    lines = page.read_text().splitlines()
    assert [lines[0], lines[2], lines[-2], lines[-1]] == ["before", BEGIN, END, "after"]
    assert "old" not in lines
    assert "| the sandwich rule beats random widths | not run |" in page.read_text()
    assert main([f"results={tmp_path / 'results'}", f"claims={page}", "paper=all"]) == WRONG_SETTINGS
    assert "paper= and claims= cannot be combined; give one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no marks", "needs two lines, between which the table goes: <!-- made by"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_page_without_a_place_for_the_table_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, told: str
) -> None:
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    assert main([f"results={tmp_path}", f"claims={page}"]) == WRONG_SETTINGS
    assert f"claims={page} {told}" in capsys.readouterr().err
