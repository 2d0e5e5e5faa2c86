"""From the records of a run to everything a person looks at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from benchmarks.analysis.ablation import table_csv, table_md, table_tex
from benchmarks.analysis.curves import curves_figure
from benchmarks.analysis.figures import figure, image_files
from benchmarks.analysis.findings import finding
from benchmarks.analysis.plans import plan_grids
from benchmarks.analysis.plans_figure import plans_figure
from benchmarks.analysis.results import Results
from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import Record
from benchmarks.running.jobs import Job, MakeTask
from benchmarks.settings.run import RunSettings
from tasks.atomic import write_atomically


def select(records: Sequence[Record], settings: RunSettings) -> list[Record]:
    """The records of these settings, whatever their seeds; records of other settings are left out."""
    names = {settings.hash_of(recipe): recipe.name for recipe in settings.recipes}
    return [record for record in records if names.get(record.hash) == record.recipe]


def write_tables(records: Sequence[Record], folder: ResultsFolder) -> Results:
    """Write table.csv, table.md, table.tex and figure.*; curves.* where there are curves, and plans.* where plans."""
    results = Results(records)
    found, more = finding(results), plan_grids(results)
    files: Mapping[str, bytes | str] = {
        "table.csv": table_csv(results),
        "table.md": table_md(results, found, more),
        "table.tex": table_tex(results, found, more),
        **{f"figure.{kind}": content for kind, content in figure(results, found).items()},
        **{f"curves.{kind}": content for kind, content in curves_figure(results, found).items()},
        **{f"plans.{kind}": content for kind, content in plans_figure(results).items()},
    }
    for name, content in files.items():
        write_atomically(folder.path / name, content)
    return results


def is_shown(job: Job, folder: ResultsFolder) -> bool:
    """Whether the showcase there is, whole, that of the network of this job."""
    try:
        shown = json.loads((folder.path / "showcase.json").read_text())
    except (OSError, ValueError):  # written last: there is none, or half of one
        return False
    return isinstance(shown, dict) and (shown.get("hash"), shown.get("seed")) == (job.hash, job.seed)


def write_showcase(settings: RunSettings, job: Job, make_task: MakeTask, folder: ResultsFolder) -> bool:
    """Write showcase.png and .svg, what the trained network puts out at its widths; False where it was not kept.

    Further files of the task lie beside them, and showcase.json says which network it is.
    """
    places = [folder, *folder.siblings(settings.results)]
    paths = [place.network(job.hash, job.seed) for place in places]
    path = next((path for path in paths if any(path.parent.glob(f"{path.name}.*"))), None)
    made = None if path is None else make_task().show(job.recipe, path)
    if made is None:
        return False
    drawn = {} if made.figure is None else image_files(made.figure)
    for name, content in {**{f"showcase.{kind}": image for kind, image in drawn.items()}, **made.files}.items():
        write_atomically(folder.path / name, content)
    network = {"recipe": job.recipe.name, "seed": job.seed, "hash": job.hash}
    write_atomically(folder.path / "showcase.json", json.dumps(network, indent=1) + "\n")
    return True
