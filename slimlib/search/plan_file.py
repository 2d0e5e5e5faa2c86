"""Plans that a search found, and the file that holds them and lets an interrupted search go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import safetensors.torch
from torch import nn

from slimlib.core.layout import Layout
from slimlib.core.setting import slimming_of
from slimlib.core.statistics import is_private
from slimlib.core.whole_file import as_path, whole_file
from slimlib.core.width import WidthPlan
from slimlib.search.budgets import Budget
from slimlib.search.chain import Plan

FORMAT = 1
KEYS = {"kind", "groups", "about", "seconds", "result", "scores"}
SECONDS_BETWEEN_WRITES = 10.0


@dataclass(frozen=True)
class Visited:
    """A plan that the search went through, with its cost in the unit of the budget, and its score."""

    plan: WidthPlan
    cost: float
    score: float


@dataclass(frozen=True)
class FoundPlan:
    """The plan that was found for a budget.

    macs, params: multiply-adds and parameters in use, as `slimlib.cost` counts them.
    cost: in the unit of the budget.
    score: what the function `score` of the search returned; lower is better.
    history: how it was found: the kept steps of greedy, or each plan that was the best so far.
    """

    budget: Budget
    plan: WidthPlan
    macs: int
    params: int
    cost: float
    score: float
    history: tuple[Visited, ...]


@dataclass(frozen=True)
class FoundPlans(Sequence[FoundPlan]):
    """What a search returns: a `FoundPlan` for each budget, in the order of the budgets. Prints as a table.

    evaluations: plans that were scored.
    seconds: that the search took, over all sessions.
    plain: seconds of plain forwards of all batches and one score, at full width; 0 if not measured.
    """

    plans: tuple[FoundPlan, ...]
    evaluations: int
    seconds: float
    plain: float

    @property
    def overhead(self) -> float:
        """Seconds of a plan's evaluation over those of plain forwards at full width."""
        return self.seconds / self.evaluations / self.plain if self.evaluations and self.plain else float("nan")

    @overload
    def __getitem__(self, index: int) -> FoundPlan: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FoundPlan]: ...
    def __getitem__(self, index: int | slice) -> FoundPlan | Sequence[FoundPlan]:
        return self.plans[index]

    def __len__(self) -> int:
        return len(self.plans)

    def __iter__(self) -> Iterator[FoundPlan]:
        return iter(self.plans)

    def __str__(self) -> str:
        lines = [f"{self.evaluations} plans scored in {self.seconds:.0f} s, each {self.overhead:.2f} plain forwards"]
        lines += [
            f"{found.budget!s:>16}  {found.macs:>14,} macs  {found.params:>12,} params  score {found.score:.4f}  "
            f"channels {', '.join(map(str, found.plan.channels))}"
            for found in self
        ]
        return "\n".join(lines)


def load_plans(path: str | Path, net: nn.Module | None = None) -> FoundPlans:
    """Read the plans that `slimlib.search` wrote to its `path`.

    Args:
        path: the file.
        net: a slimmable network that the plans must fit; None: not checked.

    Raises:
        ValueError: it is not a plan file, the search is not finished, or it belongs to another network.
    """
    data = _read(as_path(path))
    if net is not None:
        check_groups(f"{path} holds plans", data["groups"], slimming_of(net).layout)
    if data["kind"] != "search":
        raise ValueError(f"{path} holds a ranking, and no plans; slimlib.learned_ranking with this path returns it")
    if data["result"] is None:
        raise ValueError(
            f"{path} holds a search that has not ended, and no plans; call slimlib.search with this path to go on"
        )
    return _found(data)


class SearchFile:
    """Every plan that was scored, on disk where there is a path: written whole, and at most every few seconds.

    As a context it takes a new file away again if what is done within fails before a plan is scored.

    Raises:
        ValueError: the file that is there is not of this search.
        OSError: it cannot be written.
    """

    def __init__(self, path: str | Path | None, kind: str, layout: Layout, about: Mapping[str, Any]) -> None:
        self.path = None if path is None else as_path(path)
        self.scores: dict[Plan, float] = {}
        self.result: Any = None
        self._head = {
            "format": FORMAT,
            "kind": kind,
            "groups": groups_of(layout),
            "about": json.loads(json.dumps(about)),
        }
        self._seconds_before, self._began = 0.0, time.monotonic()
        self._written = float("-inf")
        self._is_new = self.path is None or not self.path.exists()
        if self.path is not None and not self._is_new:
            self._go_on(self.path, layout)
        self.write()  # now, since a place that cannot be written should be known before the work is done

    def __enter__(self) -> SearchFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._is_new and not self.scores and self.path is not None:
            self.path.unlink(missing_ok=True)

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def add(self, plan: Plan, score: float) -> None:
        self.scores[plan] = score
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.write()

    def finish(self, result: Any, **more: float) -> None:
        """Write the result."""
        self.result, self._head = result, {**self._head, **more}
        self.write()

    def write(self) -> None:
        if self.path is None:
            return
        scores = [[list(plan), score] for plan, score in self.scores.items()]
        write_json(self.path, {**self._head, "seconds": self.seconds, "result": self.result, "scores": scores})
        self._written = time.monotonic()

    def found(self) -> FoundPlans:
        """The result of a search as an object."""
        return _found({**self._head, "seconds": self.seconds, "result": self.result, "scores": self.scores})

    def _go_on(self, path: Path, layout: Layout) -> None:
        data = _read(path)
        check_groups(f"{path} holds plans", data["groups"], layout)
        if data["kind"] != self._head["kind"]:
            raise ValueError(f"{path} holds a {data['kind']}, not a {self._head['kind']}; give another path")
        ours: Any = self._head["about"]
        for name in ours.keys() | data["about"].keys():
            here, there = ours.get(name), data["about"].get(name)
            if here != there:
                shown = f": {there!r} there, {here!r} here" if name not in HASHES else ""
                raise ValueError(
                    f"{path} holds a search with other {HASHES.get(name, name)}{shown}. To go on, call with the same; "
                    "to start again, give another path or remove the file"
                )
        self.scores = data["scores"]
        self._seconds_before, self.result = data["seconds"], data["result"]
        self._head |= {"plain": data["plain"]} if "plain" in data else {}


HASHES = {"weights": "weights of the network", "batches": "calibration batches", "ranking": "ranking"}


def fingerprint(net: nn.Module) -> str:
    """Of the weights and statistics at full width."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        if not is_private(name.rpartition(".")[2]):
            digest.update(safetensors.torch.save({name: tensor.detach().contiguous()}))
    return digest.hexdigest()[:16]


def write_json(path: Path, data: Any) -> None:
    """Write a file so that it is never half there.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    with whole_file(path) as file:
        file.write_text(json.dumps(data))


def plan_to_json(found: FoundPlan) -> dict[str, Any]:
    """A form that the json module writes."""
    data = asdict(found)
    data["plan"] = list(found.plan.channels)
    data["history"] = [[list(v.plan.channels), v.cost, v.score] for v in found.history]
    return data


def _found(data: Mapping[str, Any]) -> FoundPlans:
    plans = [
        FoundPlan(
            Budget(**one["budget"]), WidthPlan(one["plan"]), one["macs"], one["params"], one["cost"], one["score"],
            tuple(Visited(WidthPlan(plan), cost, score) for plan, cost, score in one["history"]),
        )
        for one in data["result"]
    ]  # fmt: skip
    return FoundPlans(tuple(plans), len(data["scores"]), data["seconds"], data.get("plain", 0.0))


def groups_of(layout: Layout) -> list[list[Any]]:
    """Name and units of each group, as JSON has them."""
    return [[group.name, group.units] for group in layout.groups]


def _read(path: Path) -> dict[str, Any]:
    try:
        data: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable plan file: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT or not data.keys() >= KEYS:
        raise ValueError(f"{path} is not a plan file that this slimlib reads (format {FORMAT})")
    try:
        data["scores"] = {tuple(plan): float(score) for plan, score in data["scores"]}
        data["seconds"], data["about"] = float(data["seconds"]), dict(data["about"])
        plans = list(data["scores"])
        if data["kind"] == "search" and data["result"] is not None:
            found, budgets = _found(data), data["about"]["budgets"]
            if len(found) != len(budgets):
                raise ValueError(f"{len(found)} plans for {len(budgets)} budgets")
            plans += [plan.channels for one in found for plan in (one.plan, *(v.plan for v in one.history))]
        _check_plans(plans, data["groups"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged plan file ({type(error).__name__}: {error}); remove it") from error
    return data


def _check_plans(plans: Sequence[Plan], groups: Sequence[Sequence[Any]]) -> None:
    """Raise ValueError for channel numbers that the groups of a file cannot have."""
    units = [most for _, most in groups]
    for plan in dict.fromkeys(plans):
        if len(plan) != len(units) or not all(1 <= number <= most for number, most in zip(plan, units, strict=True)):
            raise ValueError(f"no plan of groups of {units} channels: {list(plan)}")


def check_groups(what: str, given: Sequence[Sequence[Any]], layout: Layout) -> None:
    """Raise ValueError unless these names and units of groups are those of a layout; `what` begins the message."""
    here, there = groups_of(layout), [list(pair) for pair in given]
    if here != there:
        differ = [(a, b) for a, b in zip(there, here, strict=False) if a != b]
        shown = f"{len(there)} groups there, {len(here)} here"
        if differ:
            (name, units), (own_name, own_units) = differ[0]
            shown = f"'{name}' with {units} channels there, '{own_name}' with {own_units} here"
        raise ValueError(f"{what} of another network: {shown}")
