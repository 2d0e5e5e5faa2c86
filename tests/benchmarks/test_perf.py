"""What the timings compare is equal but for slimlib, and what is written is what was measured."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import slimlib as slim
from benchmarks.perf.exporting import exporting
from benchmarks.perf.footprint import footprint
from benchmarks.perf.inference import folded, inference, switching
from benchmarks.perf.lessons import lessons
from benchmarks.perf.measure import OutOfTime, Part, main, time_limit
from benchmarks.perf.measurement import Machine, Measurement
from benchmarks.perf.networks import NETWORKS, SMALL, build, channel_rule, slimmable
from benchmarks.perf.reasons import reason
from benchmarks.perf.records import read, write
from benchmarks.perf.report import rows_of_machines, table_md, write_report
from benchmarks.perf.routing import routing
from benchmarks.perf.spectrum import spectrum
from benchmarks.perf.starting import converting, freezing, starting
from benchmarks.perf.timing import Spread, ratio, take_turns
from benchmarks.perf.training import sandwich_memory, sandwich_step, throughput
from benchmarks.running.command import FAILED, WRONG_SETTINGS
from benchmarks.settings.choices import CONF
from slimlib.serving.profiling import peak_bytes
from tests.extent import one_by_day

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", [*one_by_day(NETWORKS), SMALL])
def test_dense_networks_have_the_channels_of_the_width(name: str) -> None:
    image = torch.randn(1, 3, 64, 64)
    full = build(name)
    net = slim.convert(full, image, **channel_rule(full))
    for width in (0.25, 0.4, 1.0):
        assert slim.cost(build(name, width), image) == slim.cost(net, image, width)


@pytest.mark.parametrize(
    ("name", "params"), [("MobileNet v1", 4_231_976), ("MobileNet v2", 3_504_872), ("ResNet-50", 25_557_032)]
)
def test_networks_have_the_published_number_of_parameters(name: str, params: int) -> None:
    assert sum(p.numel() for p in build(name).parameters()) == params


def test_a_layout_that_was_found_once_serves_other_formats_and_sizes() -> None:
    x = torch.randn(1, 3, 32, 32).to(memory_format=torch.channels_last)
    full = build(SMALL)
    found = slim.convert(full, x, **channel_rule(full))
    for _ in range(2):
        assert slimmable(SMALL, x).slim.layout == found.slim.layout


def test_inference_compares_networks_with_equal_outputs_and_gives_every_row() -> None:
    rows = list(inference("MobileNet v1", widths=(0.25, 1.0), size=64, rounds=2, formats=("NHWC",)))  # checks inside
    assert [(m.what, m.setting) for m in rows] == [
        (f"inference {kind}", f"width {width}, NHWC")
        for width in ("0.25", "1")
        for kind in ("in place", "frozen", "extracted")
    ]
    assert all(0.1 < m.value.median < 10 for m in rows)


@pytest.mark.nightly
def test_routing_is_timed_beside_the_full_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.perf.routing.MIXTURES", {"MobileNet v1": ((32, 8, (5, 1, 1, 1), 0.5),)})
    rows = list(routing("MobileNet v1", rounds=1))
    assert [(m.setting, m.limit) for m in rows] == [
        ("32 px, batch 8, 5/1/1/1, 29 % of the multiply-adds", 0.5),
        ("32 px, batch 8, 5/1/1/1, sum of the parts", None),
        *((f"32 px, batch {batch}, a width each, groups as measured", 1.03) for batch in (1, 2, 4, 8)),
    ]


def test_a_sandwich_step_is_timed_in_both_formats_and_against_a_plain_loop() -> None:
    rows = list(sandwich_step("MobileNet v1", size=32, batch=2, rounds=1))
    assert [m.setting for m in rows] == [
        "n=4, batch 2, NCHW",
        "n=4, batch 2, NHWC",
        "n=4, batch 2, NHWC over a plain NCHW loop",
        "n=4, batch 2, the dense networks themselves, NHWC over NCHW",
    ]
    assert [m.limit for m in rows] == [1.0, 1.0, 0.70, None]


def test_a_training_step_is_timed_over_one_of_the_full_network_in_both_precisions() -> None:
    rows = list(throughput(SMALL, size=32, batch=4, rounds=1))
    for precision in ("float32", "bfloat16"):
        setting = f"n=4, batch 4, {precision}"
        assert [(m.what, m.limit, m.unit) for m in rows if m.setting.startswith(setting)] == [
            ("sandwich step", 2.2, "x"),
            ("sandwich step", 1.0, "x"),
            ("images trained", None, "images/s"),
            ("rate of arithmetic", None, "%"),
            ("step outside of kernels", None, "%"),
            ("step outside of kernels", None, "%"),
        ]
        full, summed, rate, used, *outside = (m.value.median for m in rows if m.setting.startswith(setting))
        assert full > 0 and summed > 0 and rate > 0 and used > 0 and all(0 < share < 100 for share in outside)


def test_a_step_of_each_rule_is_timed_over_a_plain_one() -> None:
    rows = {m.setting: m.value.median for m in lessons(SMALL, batch=2, rounds=1)}
    recipes = yaml.safe_load((CONF / "ablation/lessons.yaml").read_text())["recipes"]
    others = [recipe["name"] for recipe in recipes if recipe["name"] not in ("individual", "data alone")]
    assert list(rows) == [f"batch 2, {name}, over data alone" for name in others]
    assert min(rows.values()) > 0


def test_peak_memory_is_that_of_a_dense_step_in_every_format_and_precision() -> None:
    rows = list(sandwich_memory(SMALL, size=32, batch=32))
    assert [m.setting.removeprefix("n=4, batch 32, ") for m in rows] == [
        f"{shown}, {precision}" for shown in ("NCHW", "NHWC") for precision in ("float32", "bfloat16")
    ]
    # Bytes are counted, not timed; beside a network so small, what convolutions borrow differs by a few percent.
    assert all(0.5 < m.value.median < 1.1 for m in rows)


def test_memory_of_an_inference_goes_with_the_width_and_not_with_the_blocks() -> None:
    rows = {m.setting: m.value.median for m in footprint("ResNet-50", widths=(0.5, 1.0), size=224)}
    assert list(rows) == ["width 0.5", "full width, 4 of 16 blocks", "2 switches"]
    assert rows["width 0.5"] == pytest.approx(50, abs=10)
    assert rows["full width, 4 of 16 blocks"] == 100
    dense = build("ResNet-50")
    norms = sum(m.weight.numel() + m.bias.numel() for m in dense.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert rows["2 switches"] == pytest.approx(50 * norms / sum(p.numel() for p in dense.parameters()))


@pytest.mark.nightly
def test_starts_are_measured_in_seconds() -> None:
    rows = list(starting(rounds=1))
    assert [(m.what, m.setting, m.limit) for m in rows] == [
        ("start", "import, beyond torch's", 0.1),
        ("start", "python -m benchmarks.run help", 2.0),
    ]
    assert all(0 < m.value.median < 60 and m.unit == "s" for m in rows)


def test_conversions_and_freezes_are_measured_in_seconds() -> None:
    rows = [*converting(SMALL, size=32, rounds=1), *freezing(SMALL, (0.25, 1.0), size=32)]
    assert [(m.what, m.setting, m.limit) for m in rows] == [
        ("convert", "32 px", None),
        ("freeze", "2 widths", 3.0),
        ("freeze", "2 widths, folded", 3.0),
    ]
    assert all(0 < m.value.median < 60 and m.unit == "s" for m in rows)


@pytest.mark.parametrize(("name", "limit"), [("MobileNet v1", 0.75), ("WDSR-A", 0.9)])
def test_folded_networks_are_timed_with_equal_outputs(name: str, limit: float) -> None:
    rows = list(folded(name, widths=(0.25,), size=32, rounds=1))  # checks inside
    assert [m.setting for m in rows] == [
        f"width 0.25, {what}" for what in ("extracted", "frozen", "dense in channels_last")
    ]
    assert [m.limit for m in rows] == [limit, limit, None]


@pytest.mark.nightly
def test_exported_files_are_timed_with_equal_outputs() -> None:
    rows = list(exporting("MobileNet v2", widths=(0.25, 0.5), size=32, rounds=1))  # checks inside
    assert [m.what for m in rows] == ["export"] * 2 + ["inference exported"] * 4
    assert [(m.unit, m.limit) for m in rows[:2]] == [("s", 60.0)] * 2


def test_what_is_over_its_limit_on_a_cpu_has_a_reason() -> None:
    records = [record for record in read(ROOT / "results/perf") if record.machine.device == "cpu"]
    over = [m for record in records for m in record.measurements if m.verdict == "over"]
    assert [m for m in over if not reason(m, "cpu")] == []


def test_switches_are_timed_in_place_and_frozen() -> None:
    rows = list(switching("MobileNet v1", size=32, rounds=2))
    assert [(m.setting, m.unit, m.limit) for m in rows] == [("in place", "us", 20.0), ("frozen", "us", 5.0)]


def test_spectrum_and_calibration_are_timed_over_networks_with_equal_scores() -> None:
    rows = list(spectrum("MobileNet v1", widths=3, size=32, batch=4, batches=2, rounds=1))  # checks inside
    assert [(m.what, m.setting) for m in rows] == [
        (what, "3 widths, 2 batches of 4") for what in ("spectrum", "calibration")
    ]


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio({"a": [2.0, 30.0, 4.0], "b": [1.0, 10.0, 1.0]}, "a", "b") == Spread(3.0, 2.5, 3.5)


def test_turns_alternate_and_each_round_runs_everything() -> None:
    calls: list[str] = []
    times = take_turns({name: lambda name=name: calls.append(name) or sum(range(400_000)) for name in "ab"}, rounds=3)
    assert [len(seconds) for seconds in times.values()] == [3, 3]
    runs = [name for name, before in zip(calls[1:], calls, strict=False) if name != before]
    assert "".join(runs).endswith("bab")  # a b, b a, a b


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def step() -> None:
        for _ in range(3):
            a = torch.ones(1000)
            b = a + a
            del a, b

    assert peak_bytes(step, torch.device("cpu")) == pytest.approx(8000, abs=200)


KEPT = Measurement("sandwich step", "Net", "n=4", Spread(0.99, 0.9, 1.1), limit=1.0, seconds=0.5)
OVER = Measurement("width switch", "Net", "in place", Spread(21.0, 20.0, 22.0), unit="us", limit=20.0)
EPYC = Machine("AMD EPYC, 2 cores", 1, "2.13.0+cpu", "cpu")


def test_the_table_comes_from_the_records(tmp_path: Path) -> None:
    write(tmp_path, [KEPT, OVER], EPYC, rounds=7)
    assert {m for record in read(tmp_path) for m in record.measurements} == {KEPT, OVER}
    table = write_report(tmp_path)
    assert (tmp_path / "table.md").read_text() == table
    assert ["sandwich step", "Net", "n=4", "0.99", "0.90 to 1.10", "1.00", "kept", "500.0 ms"] in _cells(table)
    assert ["width switch", "Net", "in place", "21.0 us", "20.0 to 22.0", "20.0 us", "over", ""] in _cells(table)
    assert table.startswith("# slimlib keeps 1 of 2 limits")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "other",
    [
        replace(EPYC, processor="Intel Xeon, 2 cores"),
        replace(EPYC, threads=2),
        replace(EPYC, torch="2.13.0+cu126"),
        replace(EPYC, device="cuda"),
    ],
)
def test_each_class_of_machines_has_its_part_and_a_limit_must_hold_on_each(tmp_path: Path, other: Machine) -> None:
    slower = replace(KEPT, value=Spread(1.2, 1.1, 1.3))
    write(tmp_path, [KEPT], EPYC, rounds=7)
    write(tmp_path, [slower, replace(slower, setting="n=3")], other, rounds=5)
    parts = {part.splitlines()[0]: part for part in write_report(tmp_path).split("\n## ")}
    assert [len(_cells(part)) - 2 for part in (parts[str(EPYC)], parts[str(other)])] == [1, 2]
    assert "keeps 1 of 1 limits" in parts[str(EPYC)] and "keeps 0 of 2 limits" in parts[str(other)]
    assert next(iter(parts)).startswith("# slimlib keeps 0 of 2 limits")


def test_measuring_again_replaces_the_records_of_the_same_class_of_machines_alone(tmp_path: Path) -> None:
    other = replace(EPYC, threads=2)
    for machine, measured in ((EPYC, KEPT), (other, KEPT), (other, replace(KEPT, seconds=1.0))):
        write(tmp_path, [measured], machine, rounds=3)
    found = {record.machine: record.measurements for record in read(tmp_path)}
    assert found == {EPYC: (KEPT,), other: (replace(KEPT, seconds=1.0),)}


def test_this_machine_is_told_by_processor_threads_build_and_device() -> None:
    machine = Machine.this()
    assert (machine.threads, machine.torch, machine.device) == (torch.get_num_threads(), torch.__version__, "cpu")
    assert re.search(r", \d+ cores$", machine.processor)


def test_the_committed_table_is_that_of_the_committed_records() -> None:
    records = read(ROOT / "results/perf")
    assert table_md(rows_of_machines(records), records) == (ROOT / "results/perf/table.md").read_text()


def _cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    write(tmp_path, [KEPT], EPYC, rounds=1)
    (path,) = (tmp_path / "records").rglob("*.json")
    path.write_text("{")
    write(tmp_path, [OVER], EPYC, rounds=1)
    with pytest.warns(UserWarning, match=r"sandwich-step-net\.json is not a performance record"):
        assert [m for record in read(tmp_path) for m in record.measurements] == [OVER]
    write(tmp_path, [KEPT], EPYC, rounds=1, whole=False)
    assert {m for record in read(tmp_path) for m in record.measurements} == {KEPT, OVER}


def _endless(name: str, rounds: int, device: torch.device) -> Iterator[Measurement]:
    yield replace(KEPT, setting="first")
    yield replace(KEPT, setting="second")
    while True:
        time.sleep(0.01)


def test_a_row_is_kept_as_soon_as_it_is_measured_and_a_time_limit_stops_with_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.perf.measure.PARTS", {"training": Part(("MobileNet v1",), _endless)})
    assert main(["--minutes", "0.01", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "0.01 minutes are over in training: MobileNet v1; what was measured before is kept." in out
    assert [m.setting for record in read(tmp_path) for m in record.measurements] == ["first", "second"]
    assert "second" in (tmp_path / "table.md").read_text()


def test_a_time_limit_before_the_first_row_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str, rounds: int, device: torch.device) -> Iterator[Measurement]:
        while True:
            time.sleep(0.01)
        yield KEPT

    monkeypatch.setattr("benchmarks.perf.measure.PARTS", {"training": Part(("MobileNet v1",), none)})
    assert main(["--minutes", "0.001", "--results", str(tmp_path)]) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_time_limit_passes_what_catches_exceptions_and_is_gone_afterwards() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(OutOfTime), time_limit(0.0005):
        while True:
            with contextlib.suppress(Exception):
                time.sleep(1)
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_rows_that_are_measured_so_far_do_not_take_the_place_of_an_older_record_with_more(tmp_path: Path) -> None:
    older, other = replace(KEPT, seconds=9.0), replace(KEPT, setting="n=3", seconds=9.0)
    write(tmp_path, [older, other], EPYC, rounds=7)
    write(tmp_path, [KEPT], EPYC, rounds=7, whole=False)
    assert [record.measurements for record in read(tmp_path)] == [(older, other)]
    for whole, rows in ((False, [KEPT, replace(other, seconds=0.5)]), (True, [KEPT])):
        write(tmp_path, rows, EPYC, rounds=7, whole=whole)
        assert [record.measurements for record in read(tmp_path)] == [tuple(rows)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["inferense"], "unknown part 'inferense'; choose from start, "),
        (["--rounds", "0"], "must be at least 1"),
        (["--network", "VGG"], "choose from 'slimlib', "),
        (["--device", "tpu"], "choose from 'cpu', "),
        (["--minutes", "0"], "must be more than 0"),
        (
            ["switching", "--network", "ResNet-50"],
            "switching: measured with MobileNet v1, MobileNet v2, not with ResNet-50",
        ),
    ],
)
def test_impossible_arguments_are_refused(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == WRONG_SETTINGS and told in capsys.readouterr().err


def test_help_is_a_word_as_with_the_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as shown:
        main(["help"])
    assert shown.value.code == 0 and "usage: python -m benchmarks.perf" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("benchmarks.perf.measure.PARTS", {"training": Part(("MobileNet v1",), _endless)})
    assert main(["--results", str(tmp_path / "file")]) == FAILED
    told = capsys.readouterr().err
    assert told.startswith(f"error: Cannot write {tmp_path / 'file'}") and told.count("\n") == 1
