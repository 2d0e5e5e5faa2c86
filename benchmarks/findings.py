"""What a table shows, in one honest line."""

from __future__ import annotations

from benchmarks.tables import Cell, Results, decimals


def finding(results: Results) -> str:
    """Which recipe is best at the narrowest and at the widest width, and whether the seeds can tell.

    Compares, on the first evaluation set and metric, recipes that have every seed. With three seeds
    or more, a lead is called one only where it exceeds the two recipes' joint spread.
    """
    widths = [w for w in results.widths if len(_ranking(results, w)) >= min(2, len(results.recipes))]
    if not widths:
        return f"{results.first.ablation} on {results.first.dataset}: records are missing, nothing to compare"
    ends = list(dict.fromkeys((widths[0], widths[-1])))
    return ". ".join([*(_at(results, width) for width in ends), *_seeds(results)])


def _ranking(results: Results, width: float) -> list[tuple[str, Cell]]:
    metric, dataset = results.primary, results.first.eval_sets[0]
    cells = [(r, results.cell(r, width, dataset, metric.name)) for r in results.recipes]
    complete = [(r, cell) for r, cell in cells if cell.mean is not None]
    sign = -1 if metric.better == "higher" else 1
    return sorted(complete, key=lambda item: sign * (item[1].mean or 0.0))


def _at(results: Results, width: float) -> str:
    ranking = _ranking(results, width)
    places, unit = decimals(results.primary), results.primary.unit
    (name, best), rest = ranking[0], ranking[1:]
    value = f"{best.mean:.{places}f} {unit}".strip()
    if not rest:
        return f"Width {width:g}: {name} {value}"
    second, other = rest[0]
    lead = abs((best.mean or 0.0) - (other.mean or 0.0))
    if len(results.seeds) >= 3 and lead <= ((best.std or 0.0) ** 2 + (other.std or 0.0) ** 2) ** 0.5:
        return f"Width {width:g}: {name} ({value}) and {second} are within the seeds' spread"
    if lead < 0.5 * 10**-places:
        return f"Width {width:g}: {name} and {second} level at {value}"
    return f"Width {width:g}: {name} {value}, {lead:.{places}f} ahead of {second}"


def _seeds(results: Results) -> list[str]:
    count = len(results.seeds)
    return [] if count >= 3 else ["One seed only" if count == 1 else "Two seeds only"]
