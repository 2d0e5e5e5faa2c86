"""The page holds all it needs, says what it leaves out, and is the same for the same records."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.analysis.collecting import collect
from benchmarks.analysis.results import Results
from benchmarks.report.__main__ import main
from benchmarks.report.learning import MOST_LINES, MOST_POINTS, curves
from benchmarks.report.media import Album
from benchmarks.report.page import MOST_TABLES, Report
from benchmarks.report.spectrum import table
from benchmarks.running.command import DONE, FAILED
from tasks.sr.settings import SrSettings
from tasks.sr.task import SuperResolution
from tests.benchmarks.records.records_of import policy, record
from tests.benchmarks.report.small_results import (
    HOSTILE,
    picture,
    rl_records,
    sr_records,
    write_all,
    write_pictures,
    write_small,
)
from tests.tasks.sr.test_task import SMALL, Repeat


class Parts(HTMLParser):
    """The scripts of a page by type, and every address in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[tuple[str, str]] = []
        self.addresses: list[str] = []
        self.policy = ""
        self._kind: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.addresses += [str(given[name]) for name in ("src", "href", "action") if name in given]
        if tag == "script":
            self._kind = given.get("type") or "code"
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(given["content"])

    def handle_data(self, data: str) -> None:
        if self._kind is not None:
            self.scripts.append((self._kind, data))
            self._kind = None


def page_of(results: Path) -> str:
    report = Report(results)
    for collected in collect(results):
        report.add(collected)
    return report.html(results / "report.html").decode()


def data_of(page: str) -> list[dict]:
    """What each table gives to the script."""
    blocks = [json.loads(text) for kind, text in Parts(page).scripts if kind == "application/json"]
    return [block for block in blocks if "table" in block]


def test_the_page_names_no_address_and_its_policy_allows_its_own_scripts_alone(tmp_path: Path) -> None:
    write_small(tmp_path)
    parts = Parts(page_of(tmp_path))
    assert all(address.startswith(("#", "data:")) for address in parts.addresses)
    code = [text for kind, text in parts.scripts if kind == "code"]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in code]
    assert len(code) == 2 and f"script-src {' '.join(hashes)};" in parts.policy
    assert parts.policy.startswith("default-src 'none'") and "connect-src" not in parts.policy


def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    write_small(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert page_of(tmp_path / "one") == page_of(tmp_path / "two")


def test_claims_of_papers_come_first_where_records_tell_of_them(tmp_path: Path) -> None:
    of_x2 = {"scale": "small", "settings": {"scale": 2}}
    write_all([record(name, 0, {1.0: 30.0}, **of_x2) for name in ("random", "sandwich")], tmp_path)
    page = page_of(tmp_path)
    (claims,) = (
        block
        for kind, text in Parts(page).scripts
        if kind == "application/json" and (block := json.loads(text)).get("title") == "What the papers claim"
    )
    assert [row[:2] for row in claims["rows"]] == [["the sandwich rule beats random widths", "no, one seed"]]
    assert claims["links"] == ["#f1"]
    assert page.index('id="claims"') < page.index('id="overview"')
    write_small(tmp_path / "other")
    assert 'id="claims"' not in page_of(tmp_path / "other")


def test_text_of_records_ends_no_script(tmp_path: Path) -> None:
    plain = record("sandwich", 0, {0.5: 30.0})
    write_all([plain.model_copy(update={"recipe": HOSTILE, "question": HOSTILE})], tmp_path)
    page = page_of(tmp_path)
    assert "<script>alert" not in page
    assert data_of(page)[0]["table"]["recipes"] == [HOSTILE]
    assert len([kind for kind, _ in Parts(page).scripts if kind == "code"]) == 2


def test_points_are_the_means_and_spreads_of_the_table() -> None:
    found = table(Results(sr_records()))
    view = found["views"][0]
    assert found["recipes"] == ["individual", "random", "sandwich"] and found["individual"] == [0]
    assert found["costs"] == [[{"macs": 1_000_000}, {"macs": 2_500_000}, {"macs": 10_000_000}]]
    assert view["series"][0] == [[30.6, 31.1, 32.1], pytest.approx([0.1] * 3), pytest.approx([0.1] * 3)]
    assert found["titles"] == ["individual", "random (1 of 3 seeds)", "sandwich"]
    assert len(view["series"][1]) == 1 and None not in view["series"][1][0]  # the mean over its one seed, no spread
    assert view["baselines"] == [["bicubic", 29.5, True]]
    assert view["grids"][0]["rows"][1] == ["individual", "30.60 ± 0.10", "31.10 ± 0.10", "32.10 ± 0.10"]
    assert [row[0] for row in view["grids"][0]["pinned"]] == ["multiply-adds", "parameters"]


def test_costs_of_recipes_that_differ_are_told_for_each() -> None:
    other = record("sandwich", 0, {0.5: 31.0})
    dearer = [row.model_copy(update={"macs": 7}) for row in other.rows]
    found = table(Results([record("random", 0, {0.5: 30.0}), other.model_copy(update={"rows": dearer})]))
    assert found["costs"] == [[{"macs": 2_500_000}], [{"macs": 7}]] and found["logarithmic"]
    assert found["views"][0]["grids"][0]["pinned"] == []


def test_many_recipes_keep_a_row_each_whatever_the_number_of_widths() -> None:
    base = record("sandwich", 0, {0.5: 30.0})
    rows = [base.rows[0].model_copy(update={"point": f"{n / 12:g}", "width": n / 12}) for n in range(1, 13)]
    names = [f"recipe {n:02}" for n in range(11)]
    records = [base.model_copy(update={"recipe": name, "rows": rows}) for name in names]
    grid = table(Results(records))["views"][0]["grids"][0]
    assert [row[0] for row in grid["rows"]] == ["bicubic", *names]
    few = table(Results(records[:3]))["views"][0]["grids"][0]
    assert few["head"][-3:] == names[:3]
    assert [row[0] for row in few["rows"]] == [*(row.point for row in rows), "mean"]


def test_policies_are_drawn_by_their_interquartile_mean_with_its_interval() -> None:
    view = table(Results(rl_records()))["views"][0]
    assert view["interval"] and view["axis"].startswith("IQM of return")
    middle, below, above = view["series"][0]
    assert middle[2] == pytest.approx(103.0) and 0 < below[2] <= 2 and 0 < above[2] <= 2
    assert len(view["grids"]) == 2


def test_learning_curves_are_means_over_seeds() -> None:
    found = curves(Results(rl_records()))
    assert found is not None and found["recipes"] == 2 and len(found["panels"]) == 2 and not found["thinned"]
    assert found["steps"] == [list(range(0, 100, 10))] and found["stepUnit"] == "environment steps"
    point, steps, values, low, high = found["panels"][0]["lines"][-1]
    assert (point, steps) == (2, 0) and values == [step + 2 for step in range(0, 100, 10)]
    assert low[0] < values[0] < high[0]
    assert curves(Results(sr_records())) is None


def test_long_and_many_curves_are_thinned_and_it_is_said() -> None:
    long = [(float(step), float(step)) for step in range(1000)]
    base = policy("sandwich", 0, {1.0: [1.0, 2.0]}, {1.0: long})
    count = MOST_LINES + 5
    records = [base.model_copy(update={"recipe": f"recipe {n}", "hash": f"{n:012}"}) for n in range(count)]
    found = curves(Results(records))
    assert found is not None and found["thinned"] and found["recipes"] == count and len(found["panels"]) == MOST_LINES
    (line,) = found["panels"][0]["lines"]
    assert len(line[2]) == MOST_POINTS and (line[2][0], line[2][-1]) == (0.0, 999.0)


def test_damaged_records_are_listed_and_the_rest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_all(sr_records(), tmp_path)
    (folder / "records/half.json").write_text("{")
    assert main([f"results={tmp_path}"]) == FAILED
    assert "damaged, left out" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    listed = [json.loads(text) for _, text in Parts(page).scripts if '"Files that could not be read"' in text]
    assert listed[0]["rows"][0][0] == "sr/sandwich/tiny/records/half.json" and "half.json" in listed[0]["rows"][0][1]
    assert len(data_of(page)) == 1


def test_tables_of_other_settings_are_shown_up_to_a_number_and_the_rest_is_counted(tmp_path: Path) -> None:
    write_all([record("random", 0, {0.5: 30.0}, steps=n, hash=f"{n:012}") for n in range(MOST_TABLES + 3)], tmp_path)
    page = page_of(tmp_path)
    assert len(data_of(page)) == MOST_TABLES and "3 further tables of this folder" in page


def test_what_ran_where_is_counted_by_machine_and_commit(tmp_path: Path) -> None:
    made = [record("random", seed, {0.5: 30.0}, seconds=1800.0, host=f"host {seed % 2}") for seed in range(4)]
    write_all(made, tmp_path)
    report = Report(tmp_path)
    for collected in collect(tmp_path):
        report.add(collected)
    rows = report.origins.grid()["rows"]
    assert [(row[3], row[-2], row[-1]) for row in rows] == [("host 0", "2", "1.00"), ("host 1", "2", "1.00")]
    assert report.folders[0].tables[0].origin == "4 records, 2.00 hours on 2 kinds of machines"
    report.origins.add(one.model_copy(update={"ablation": "distillation"}) for one in made)
    assert (report.origins.records, report.origins.hours) == (8, 2.0), "the same trainings, shared by two ablations"


def test_crops_that_the_task_writes_are_shown(tmp_path: Path) -> None:
    files = SuperResolution(SrSettings(**SMALL)).showcase({"width 0.5": Repeat().eval()}).files
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    album = Album()
    crops = album.of(tmp_path)["pictures"]["crops"]
    assert album.damaged == {} and [image["name"] for image in crops["images"]] == ["astronaut", "cat", "china"]
    source = crops["images"][0]["crops"][2]["source"]
    assert source == f"data:image/png;base64,{base64.b64encode(files['crops/astronaut/width-0.5.png']).decode()}"


def test_pictures_are_beside_the_table_that_has_their_network(tmp_path: Path) -> None:
    made = [record("random", 0, {0.5: 30.0}, steps=steps, hash=f"{steps:012}") for steps in (7, 9)]
    write_pictures(write_all(made, tmp_path), tmp_path)
    (tmp_path / "sr/sandwich/tiny/showcase.json").write_text('{"recipe": "random", "seed": 0, "hash": "000000000007"}')
    assert ["crops" in data["pictures"] for data in data_of(page_of(tmp_path))] == [False, True]


def test_pictures_that_are_too_large_are_named_with_their_size_and_linked(tmp_path: Path) -> None:
    folder = write_all(rl_records(), tmp_path)
    (folder / "video.gif").write_bytes(picture(1, "gif") + bytes(5_000_000))
    page = page_of(tmp_path)
    assert '<a href="rl/sandwich/tiny/video.gif">video.gif</a> has 5.0 MB, and a page takes files of at most' in page
    assert data_of(page)[0]["pictures"] == {}


def test_pictures_stop_where_the_page_has_enough_of_them(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "video.gif").write_bytes(picture(1, "gif"))
    album = Album(room=len(picture(1, "gif")))
    first, second = (album.of(tmp_path / name) for name in "ab")
    assert "video" in first["pictures"] and second["pictures"] == {}
    assert "have reached" in second["left_out"][0]["why"]


BROKEN = [
    ("crops/index.json", b"{", "Expecting"),
    ("crops/index.json", b'{"images": []}', "measured"),
    ("crops/index.json", b"\xff{}", "utf-8"),
    ("crops/cat/bicubic.png", None, "is missing"),
    ("showcase.json", b"[", "Expecting"),
]


@pytest.mark.parametrize(("file", "content", "why"), BROKEN)
def test_broken_pictures_are_listed_and_nothing_else_is_lost(
    tmp_path: Path, file: str, content: bytes | None, why: str
) -> None:
    sr, rl = write_all(sr_records(), tmp_path), write_all(rl_records(), tmp_path)
    write_pictures(sr, rl)
    if content is None:
        (sr / file).unlink()
    else:
        (sr / file).write_bytes(content)
    report = Report(tmp_path)
    for collected in collect(tmp_path):
        report.add(collected)
    ((path, reason),) = report.wrong.items()
    assert path == sr / file and why in reason
    assert len(data_of(report.html(tmp_path / "report.html").decode())) == 2


def test_crops_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    (folder / "crops").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(picture(1))
    crop = {"label": "original", "file": "../secret.png", "psnr": None}
    index = {"measured": "", "images": [{"name": "a", "credit": "", "crops": [crop]}]}
    (folder / "crops/index.json").write_text(json.dumps(index))
    album = Album()
    assert album.of(folder)["pictures"] == {}
    assert "outside of the folder" in album.damaged[folder / "crops/index.json"]


def test_the_whole_way_from_records_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_small(tmp_path / "results")
    assert main([f"results={tmp_path / 'results'}", f"to={tmp_path / 'new/page.html'}"]) == DONE
    assert re.fullmatch(r".*page\.html: tables 2, records 17; \d\.\d MB\n", capsys.readouterr().out)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
