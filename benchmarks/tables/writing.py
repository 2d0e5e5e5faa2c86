"""From the records of a run to everything a person looks at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

import slimlib as slim
from benchmarks.analysis.ablation import table_csv, table_md, table_tex
from benchmarks.analysis.curves import curves_figure
from benchmarks.analysis.figures import figure, image_files
from benchmarks.analysis.findings import finding
from benchmarks.analysis.results import Results
from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import Record
from benchmarks.running.jobs import Job, MakeTask
from benchmarks.settings.run import RunSettings
from tasks.atomic import write_atomically
from tasks.task import TrainsItself


def select(records: Sequence[Record], settings: RunSettings) -> list[Record]:
    """The records of these settings, whatever their seeds; records of other settings are left out."""
    names = {settings.hash_of(recipe): recipe.name for recipe in settings.recipes}
    return [record for record in records if names.get(record.hash) == record.recipe]


def write_tables(records: Sequence[Record], folder: ResultsFolder) -> Results:
    """Write table.csv, table.md, table.tex, figure.png and .svg, and curves.png and .svg where there are curves."""
    results = Results(records)
    found = finding(results)
    files: Mapping[str, bytes | str] = {
        "table.csv": table_csv(results),
        "table.md": table_md(results, found),
        "table.tex": table_tex(results, found),
        **{f"figure.{kind}": content for kind, content in figure(results, found).items()},
        **{f"curves.{kind}": content for kind, content in curves_figure(results, found).items()},
    }
    for name, content in files.items():
        write_atomically(folder.path / name, content)
    return results


def write_showcase(settings: RunSettings, job: Job, make_task: MakeTask, folder: ResultsFolder) -> bool:
    """Write showcase.png and .svg, what the trained network puts out at its widths; False where it was not kept.

    Further files of the task lie beside them, and showcase.json says which network it is.
    """
    places = [folder, *folder.siblings(settings.results)]
    paths = [place.network(job.hash, job.seed) for place in places]
    task = make_task()
    if isinstance(task, TrainsItself):
        path = next((p for p in paths if list(p.parent.glob(f"{p.name}.*"))), None)
        return _write(job, {} if path is None else task.showcase_files(path, job.recipe.evaluated(task)), folder)
    path = next((p for p in paths if p.exists()), None)
    if path is None:
        return False
    net = slim.load(path, into=job.recipe.build(task)).eval()
    widths = job.recipe.evaluated(task)

    def at(width: float) -> Callable[[Tensor], Tensor]:
        def compute(x: Tensor) -> Tensor:
            with slim.at_width(net, width):
                output: Tensor = net(x)
            return output

        return compute

    made = task.showcase({f"width {width:g}": at(width) for width in widths})
    if made is None:
        return False
    figure_files = {f"showcase.{kind}": content for kind, content in image_files(made.figure).items()}
    return _write(job, {**figure_files, **made.files}, folder)


def _write(job: Job, files: Mapping[str, bytes], folder: ResultsFolder) -> bool:
    """Write what a task shows of the network of a job; False where that is nothing."""
    for name, content in files.items():
        write_atomically(folder.path / name, content)
    if files:
        network = {"recipe": job.recipe.name, "seed": job.seed, "hash": job.hash}
        write_atomically(folder.path / "showcase.json", json.dumps(network, indent=1) + "\n")
    return bool(files)
