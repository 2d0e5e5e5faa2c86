"""What the timings compare is equal but for slimlib, and what is written is what was measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import slimlib as slim
from benchmarks.perf.exporting import exporting
from benchmarks.perf.inference import folded, inference, switching
from benchmarks.perf.measure import main
from benchmarks.perf.measurement import Machine, Measurement
from benchmarks.perf.networks import NETWORKS, build, channel_rule
from benchmarks.perf.reasons import reason
from benchmarks.perf.records import read, write
from benchmarks.perf.report import rows_of_machines, table_md, write_report
from benchmarks.perf.routing import routing
from benchmarks.perf.spectrum import spectrum
from benchmarks.perf.timing import Spread, ratio, take_turns
from benchmarks.perf.training import sandwich_step
from slimlib.serving.profiling import peak_bytes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", NETWORKS)
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


def test_inference_compares_networks_with_equal_outputs_and_gives_every_row() -> None:
    rows = list(inference("MobileNet v1", widths=(0.25, 1.0), size=64, rounds=2, formats=("NHWC",)))  # checks inside
    assert [(m.what, m.setting) for m in rows] == [
        (f"inference {kind}", f"width {width}, NHWC")
        for width in ("0.25", "1")
        for kind in ("in place", "frozen", "extracted")
    ]
    assert all(0.1 < m.value.median < 10 for m in rows)


def test_routing_is_timed_beside_the_full_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.perf.routing.MIXTURES", {"MobileNet v1": ((32, 8, (5, 1, 1, 1), 0.5),)})
    rows = list(routing("MobileNet v1", rounds=1))
    assert [(m.setting, m.limit) for m in rows] == [
        ("32 px, batch 8, 5/1/1/1, 29 % of the multiply-adds", 0.5),
        *((f"32 px, batch {batch}, a width each, groups as measured", 1.03) for batch in (1, 2, 4)),
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
    with pytest.raises(ValueError, match=r"sandwich-step-net\.json is not a performance record"):
        write_report(tmp_path)


@pytest.mark.parametrize("arguments", [["inferense"], ["--rounds", "0"], ["--network", "VGG"], ["--device", "tpu"]])
def test_impossible_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error: " in capsys.readouterr().err
