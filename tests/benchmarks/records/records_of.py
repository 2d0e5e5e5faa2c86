"""Small records for tests, without any training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.records.record import MetricInfo, Record, Row
from tasks.points import name_of_width

COSTS = {0.25: (1_000_000, 1_000), 0.5: (2_500_000, 2_500), 1.0: (10_000_000, 10_000)}


TINY_COSTS = {0.0625: (40, 50), 0.25: (352, 386), 1.0: (4_480, 4_610)}
Points = Sequence[tuple[float, float]]


def width(number: float, costs: Mapping[float, tuple[int, int]]) -> dict[str, Any]:
    """What a row says of a width."""
    macs, params = costs[number]
    return {"point": name_of_width(number), "kind": "width", "width": number, "macs": macs, "params": params}


def record(recipe: str, seed: int, values: Mapping[float, float], **changes: Any) -> Record:
    """A record of one evaluation set "photos" with metric psnr: width -> value."""
    rows = [Row(**width(w, COSTS), metrics={"photos": {"psnr": v}}) for w, v in values.items()]
    plain: dict[str, Any] = {
        "task": "sr",
        "ablation": "sandwich",
        "question": "Which widths?",
        "recipe": recipe,
        "position": ("individual", "random", "sandwich").index(recipe),
        "seed": seed,
        "hash": f"{recipe:_<12.12}",
        "scale": "tiny",
        "data": "photos",
        "dataset": "photos",
        "protocol": "PSNR on Y.",
        "steps": 1200,
        "input": [1, 3, 24, 24],
        "metrics": [MetricInfo(name="psnr", unit="dB", better="higher")],
        "eval_sets": ["photos"],
        "rows": rows,
        "baselines": {"bicubic": {"photos": {"psnr": 29.5}}},
        "training": {"kind": "individual" if recipe == "individual" else "slimmable"},
        "settings": {"model": "wdsr-a"},
        "versions": {"python": "3.11"},
        "commit": None,
        "host": "a CPU, 2 cores",
        "threads": 1,
        "seconds": 1.0,
    }
    return Record(**plain | changes)


def policy(
    recipe: str,
    seed: int,
    returns: Mapping[float, Sequence[float]],
    curves: Mapping[float, Points] | None = None,
    **changes: Any,
) -> Record:
    """A record of policies for "CartPole-v1": width -> the return of each episode, and its learning curve."""
    name = "CartPole-v1"
    rows = [
        Row(
            **width(w, TINY_COSTS),
            metrics={name: {"return": statistics.fmean(episodes)}},
            samples={name: {"return": list(episodes)}},
            curve={name: {"return": [list(moment) for moment in curves[w]]}} if curves and w in curves else {},
        )
        for w, episodes in returns.items()
    ]
    plain: dict[str, Any] = {
        "task": "rl",
        "dataset": name,
        "rows": rows,
        "step_unit": "environment steps",
        "input": [1, 4],
        "metrics": [MetricInfo(name="return", unit="", better="higher")],
        "eval_sets": [name],
        "baselines": {"random actions": {name: {"return": 21.25}}},
        "settings": {"algorithm": "ppo"},
    }
    return record(recipe, seed, {}, **plain | changes)
