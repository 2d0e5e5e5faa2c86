"""The folder that one ablation's results lie in: its records, its lock, and what is not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from benchmarks.records.record import Record, read_record, read_records
from tasks.atomic import remove_stale, write_atomically


class FolderInUse(OSError):
    """Another run works in the folder."""


class ResultsFolder:
    """`results/<task>/<ablation>/<scale>/`, or one or two folders deeper, for other data and heads.

    `cache/` holds checkpoints, trained networks and the lock; git does not see it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = path / "records"
        self.cache = path / "cache"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one run, and clear away what killed ones left half written.

        A run that could not begin, for example because its data are not there, leaves no folder.

        Raises:
            FolderInUse: another run has it.
            OSError: it cannot be written.
        """
        made = [place for place in (self.cache, *self.cache.parents) if not place.exists()]
        self.cache.mkdir(parents=True, exist_ok=True)
        if not (self.cache / ".gitignore").exists():
            write_atomically(self.cache / ".gitignore", "*\n")
        lock = FileLock(self.cache / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FolderInUse(
                f"another run is working in {self.path}; wait for it, or choose results=<another folder>"
            ) from None
        try:
            self._remove_stale()
            yield
        except BaseException:
            if made and {path.name for path in self.cache.iterdir()} <= {".gitignore", "lock"}:
                with suppress(OSError):  # one is not empty, or the system removes no open file
                    for path in self.cache.iterdir():
                        path.unlink()
                    for place in made:
                        place.rmdir()
            raise
        finally:
            lock.release()

    def _remove_stale(self) -> None:
        for place in (self.path, self.records, self.cache, *self.cache.glob("*")):
            remove_stale(place)
        for part in (self.cache / "networks").glob("*.part"):  # of `slimlib.save`
            part.unlink(missing_ok=True)

    def checkpoint(self, hash_: str, seed: int) -> Path:
        """Where the state of a run is kept until it is recorded."""
        return self.cache / "checkpoints" / f"{hash_}-{seed}.pt"

    def network(self, hash_: str, seed: int) -> Path:
        """Where the trained slimmable network for the showcase is kept; the task adds an ending."""
        return self.cache / "networks" / f"{hash_}-{seed}"

    def trained(self, hash_: str, seed: int) -> Path:
        """Where a trained network is kept for recipes that score it in another way."""
        return self.cache / "trained" / f"{hash_}-{seed}.pt"

    def siblings(self, results: Path) -> list[ResultsFolder]:
        """The folders of the same task, scale and data in other ablations."""
        task, ablation, *deeper = self.path.relative_to(results).parts
        others = sorted(p for p in (results / task).glob("*") if p.is_dir() and p.name != ablation)
        return [ResultsFolder(p.joinpath(*deeper)) for p in others]

    def find(self, hash_: str, seed: int) -> Record | None:
        """The sound record of these settings and this seed, under whatever name."""
        for path in sorted(self.records.glob(f"*-{seed}-{hash_}.json")):
            try:
                record = read_record(path)
            except ValueError:
                continue
            if (record.hash, record.seed) == (hash_, seed):
                return record
        return None

    def read(self, progress: Callable[[Path], None] = lambda _: None) -> tuple[list[Record], dict[Path, str]]:
        """All sound records, and what is wrong with the others."""
        records, damaged = read_records(self.records, progress)
        return records, dict(damaged)


def record_folders(results: Path) -> Iterator[Path]:
    """Every `<task>/<ablation>/<scale>`, or one or two folders deeper, that has records; relative to `results`."""
    for pattern in ("*/*/*/records", "*/*/*/*/records", "*/*/*/*/*/records"):
        yield from (path.parent.relative_to(results) for path in sorted(results.glob(pattern)) if path.is_dir())
