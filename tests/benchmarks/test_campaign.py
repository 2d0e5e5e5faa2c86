"""Campaigns: what is left is run by priority, within the time, and nothing twice."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from benchmarks import campaign
from benchmarks.campaign import CAMPAIGNS, in_order, look, main, read_campaign, read_options

SMALL = (
    "task=sr ablation=sandwich steps=1 task.features=4 task.blocks=1 task.patch=8 task.batch=1 task.widths=[0.5,1.0]"
)
FILE = f"""\
question: Does a campaign do what it says?
runs:
  - {{priority: 2, minutes: 1, run: "{SMALL} only=[individual] seeds=[0]"}}
  - {{priority: 1, minutes: 1, run: "{SMALL} only=[sandwich,random] seeds=[0,1]"}}
"""
ONE = "".join(FILE.splitlines(keepends=True)[:3])
"""With its first run alone, which is a single job."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def options(file: Path, *more: str) -> campaign.Options:
    return read_options([f"name={file}", f"results={file.parent / 'results'}", *more])


def test_runs_come_by_priority_and_every_recipe_gets_a_first_seed_before_a_second(file: Path) -> None:
    given = options(file)
    progress = [look(planned, given) for planned in given.campaign.runs]
    order = [chain.jobs[0].job.label for chain in in_order(progress)]
    assert order == ["random, seed 0", "sandwich, seed 0", "random, seed 1", "sandwich, seed 1", "individual, seed 0"]


def test_what_has_its_record_is_not_run_again(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"name={file}", f"results={file.parent / 'results'}", "device=cpu"]
    file.write_text(ONE)
    assert main(words) == 0
    records = sorted(file.parent.glob("results/sr/sandwich/tiny/records/*.json"))
    assert [path.name.split("-")[0] for path in records] == ["individual"]
    assert (file.parent / "results/sr/sandwich/tiny/table.md").exists()
    before = {path: path.stat().st_mtime_ns for path in records}
    capsys.readouterr()
    assert main(words) == 0
    assert "start" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in records} == before


@pytest.mark.nightly
def test_what_comes_first_is_run_and_all_that_is_new_is_packed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the campaign for a GPU does, whose checks and trainings take minutes."""
    file.write_text(FILE.replace("runs:", 'first: ["benchmarks.campaign name=gpu show=true device={device}"]\nruns:'))
    archive, results = file.parent / "new.tar.gz", file.parent / "results"
    old = results / "sr/sandwich/tiny/records/old.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    os.utime(old, (0, 0))
    words = [f"name={file}", f"results={results}", "device=cpu", f"archive={archive}", "jobs=2"]
    assert main(words) == 0
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        (log,) = (name for name in names if name.endswith(".log"))
        assert b"Does everything hold on a GPU" in tar.extractfile(log).read()  # type: ignore[union-attr]
    assert len([name for name in names if name.startswith("sr/sandwich/tiny/records/")]) == 5
    assert len([name for name in names if "/cache/trained/" in name]) == 5
    assert not any("old" in name for name in names)
    assert "exit code 0" in capsys.readouterr().out


def test_records_are_packed_whatever_their_size_and_networks_into_what_they_leave(file: Path) -> None:
    given = options(file)
    progress = [look(given.campaign.runs[0], given)]
    folder = Path(given.results) / "sr/sandwich/tiny"
    sizes = {
        "records/one.json": 9e6,
        "records/two.json": 5e6,
        "cache/trained/small.pt": 9e5,
        "cache/trained/large.pt": 2e6,
    }
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"0" * int(size))

    def packed() -> set[str]:
        campaign.pack(file.parent / "new.tar.gz", Path(given.results), progress, began=0)
        with tarfile.open(file.parent / "new.tar.gz") as tar:
            return {Path(name).name for name in tar.getnames()}

    assert packed() == {"one.json", "two.json", "small.pt"}
    (folder / "records/three.json").write_bytes(b"0" * int(9e6))
    assert packed() == {"one.json", "two.json", "three.json"}


@pytest.mark.parametrize("place", ["my results", "rü", "a=b", '"in quotes"'])
def test_folders_of_any_name_hold_records_and_logs(place: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    first = 'first: ["benchmarks.tables results={results} {other: 1}", "benchmarks.tables results={results} nothing=1"]'
    own = FILE.replace("runs:", f"{first}\nruns:")
    file.write_text(own.replace("sandwich steps=1", "sandwich data=benchmark data.root={data}/sr steps=1"))
    given = read_options([f"name={file}", f"results={place}", "data=my data", "show=true"])
    assert given.results == place.strip('"')
    settings = look(given.campaign.runs[0], given).settings
    assert (settings.results, settings.task_settings["root"]) == (Path(place.strip('"')), "my data/sr")
    for number, words in enumerate(given.campaign.first, start=1):
        assert not campaign._begin(number, words, given, Console(quiet=True))
    logs = sorted((file.parent / settings.results / "campaign").iterdir())
    assert [log.name for log in logs] == ["1-benchmarks.tables.log", "2-benchmarks.tables.log"]
    assert ["nothing" in log.read_text() for log in logs] == [False, True]
    assert {path.name for path in file.parent.iterdir()} == {file.name, place.strip('"')}


def test_a_job_that_several_runs_share_is_done_once(file: Path) -> None:
    file.write_text(FILE.replace("only=[individual] seeds=[0]", "only=[sandwich] seeds=[1]"))
    given = options(file)
    chains = in_order([look(planned, given) for planned in given.campaign.runs])
    assert sorted(one.job.label for chain in chains for one in chain.jobs) == [
        "random, seed 0", "random, seed 1", "sandwich, seed 0", "sandwich, seed 1",
    ]  # fmt: skip


def test_no_job_is_started_that_would_end_after_the_time(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"name={file}", f"results={file.parent / 'results'}", "hours=0.01"]) == 0
    assert "start" not in capsys.readouterr().out
    assert not list(file.parent.rglob("records/*.json"))


def test_a_run_that_fails_is_told_with_its_reason(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(ONE.replace("task.patch=8", "task.patch=4000"))
    assert main([f"name={file}", f"results={file.parent / 'results'}", "device=cpu"]) == 1
    assert "individual, seed 0: failed: " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("path", sorted(CAMPAIGNS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_run_of_a_campaign_that_ships_can_be_composed(path: Path, tmp_path: Path) -> None:
    given = read_options([f"name={path.stem}", f"results={tmp_path}", f"data={tmp_path}"])
    for planned in given.campaign.runs:
        assert look(planned, given).left


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["name=nothing"], "unknown campaign 'nothing'"),
        (["hours=3"], "name must be given: text (a file of benchmarks/conf/campaign"),
        (["name=evidence", "hours=many"], "hours='many' must be a number, at least 0"),
        (["name=evidence", "hours=-1"], "hours=-1 must be a number, at least 0"),
        (["name=evidence", "hours=nan"], "hours='nan' must be a number, at least 0"),
        (["name=evidence", "jobs=0"], "jobs=0 must be a whole number, at least 1"),
        (["name=evidence", "jobs=1.5"], "jobs=1.5 must be a whole number, at least 1"),
        (["name=evidence", "nice=20"], "nice=20 must be a whole number from 0 to 19"),
        (["name=evidence", "show=yess"], "show='yess' must be true or false"),
        (["name=evidence", "device=gpu"], "unknown device 'gpu'"),
        (["name=evidence", "hour=3"], "did you mean 'hours'?"),
        (["name=evidence", "archive=nowhere/new.tar.gz"], "lies in no folder that there is; make the folder first"),
        (
            ["name=evidence", f"archive={CAMPAIGNS}", "show=true"],
            f"archive={CAMPAIGNS} is a folder; name a file in it, such as",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (FILE.replace("minutes: 1", "minutes: -1"), r"mine.yaml: runs.minutes=-1 must be a number above 0"),
        (FILE.replace("priority", "priorty"), r"mine.yaml: unknown key 'runs.priorty'; did you mean 'runs.priority'"),
        (
            FILE.replace("question", "quesion"),
            r"mine.yaml: (unknown key 'quesion'; did you mean|question must be given)",
        ),
        ("question: What?\nruns: []", r"mine.yaml: a campaign has a question, and runs"),
        ("question: What?\nruns: [3]", r"mine.yaml: a campaign has a question, and runs"),
        (FILE.replace("runs:", "first: ['']\nruns:"), r"mine.yaml: first='': it names no module with its arguments"),
        (FILE.replace("runs:", 'first: ["a \'b"]\nruns:'), r"mine.yaml: first=\"a 'b\": No closing quotation"),
        ("- 1", r"mine.yaml: a campaign has a question, and runs"),
        ("runs: [", r"mine.yaml: while parsing a flow node"),
    ],
)
def test_a_file_with_something_wrong_names_the_place(file: Path, content: str, says: str) -> None:
    file.write_text(content)
    with pytest.raises(ValueError, match=says):
        read_campaign(str(file))


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("task=sr ablation=sandwitch", "error: run 'task=sr ablation=sandwitch': unknown ablation 'sandwitch'"),
        ("task=sr 'steps=3", """error: run 'task=sr 'steps=3': No closing quotation"""),
    ],
)
def test_a_run_that_cannot_be_is_named(run: str, says: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(yaml.safe_dump({"question": "What?", "runs": [{"run": run, "minutes": 1}]}))
    assert main([f"name={file}", f"results={file.parent / 'results'}"]) == 2
    assert capsys.readouterr().err.startswith(says)
