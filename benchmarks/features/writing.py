"""Everything that is written: figures with their findings, tables, and what the report reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.analysis.grid import markdown
from benchmarks.features.figures import Files, correlations, importance, kernels, patches
from benchmarks.features.importance import MEASURES, POSITIONS
from benchmarks.features.looking import FeatureSettings, Looked, excited, first_kernels, first_weight, layer_to_draw
from benchmarks.features.tables import by_recipe, grids, listed, mean_of, quarters, shares_of, tidy
from benchmarks.report.learned import INDEX, Drawn, Learned
from tasks.atomic import write_atomically
from tasks.points import name_of_width
from tasks.task import HeldOut

NOT_SHOWN = "The licence of the data does not allow to show its images, so no patches are drawn."


@dataclass(frozen=True)
class Figure:
    """A figure, its finding, and how to read it."""

    name: str
    finding: str
    note: str
    files: Files


def write(folder: Path, looked: Sequence[Looked], held_out: HeldOut, settings: FeatureSettings, about: str) -> None:
    """Write figures, table.csv, table.md and features.json; files of an earlier call that do not belong go.

    Args:
        about: what the networks were trained on, and looked at with.
    """
    figures = list(_figures(looked, held_out, settings))
    caption = " ".join([about, *_caption(looked, settings), *([] if held_out.pixels is not None else [NOT_SHOWN])])
    content: dict[str, bytes | str] = {
        f"{one.name}.{kind}": image for one in figures for kind, image in one.files.items()
    }
    content["table.csv"] = tidy(looked)
    content["table.md"] = "\n\n".join([f"# {figures[0].finding}", caption, *map(markdown, grids(looked))]) + "\n"
    drawn = [Drawn(file=f"{one.name}.png", finding=one.finding, note=one.note) for one in figures]
    content[INDEX] = (
        Learned(finding=figures[0].finding, caption=caption, figures=drawn).model_dump_json(indent=1) + "\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in {path.name for path in folder.iterdir() if path.suffix in (".png", ".svg")} - set(content):
        (folder / name).unlink()
    for name, text in content.items():
        write_atomically(folder / name, text)


def _figures(looked: Sequence[Looked], held_out: HeldOut, settings: FeatureSettings) -> Iterator[Figure]:
    shown = next((one for one in reversed(looked) if one.alike and one.trained.seed == looked[0].trained.seed), None)
    yield _importance(looked)
    yield _kernels(looked)
    if shown is not None:
        yield _correlations(looked)
        if held_out.pixels is not None:
            yield _patches(shown, held_out, settings)


def _importance(looked: Sequence[Looked]) -> Figure:
    curves, found = shares_of(looked), quarters(looked)
    finding = "The first quarter of the channels has " + "; ".join(
        f"{listed(found[measure], '.0f', ' %')} of the {measure}" for measure in reversed(MEASURES) if measure in found
    )
    individual = [one.trained.recipe.name for one in looked if one.trained.recipe.kind == "individual"]
    note = (
        "All groups of layers together, over channel order; shaded grey: the first quarter, which has 25 % where all "
        "channels are alike."
    )
    return Figure("importance", finding, note, importance(curves, individual, finding))


def _kernels(looked: Sequence[Looked]) -> Figure:
    firsts = {recipe: of[0] for recipe, of in by_recipe(looked).items()}
    norms = {}
    for recipe, one in firsts.items():
        units = first_weight(one.trained, one.trained.widths[-1]).flatten(1).norm(dim=1)
        first = units[: max(1, len(units) // 4)]
        norms[recipe] = [float(first.mean() / units[len(first) :].mean())]
    finding = (
        f"First-layer kernels of the first quarter have so many times the norm of the others: {listed(norms, '.2f')}"
    )
    tiles = {recipe: first_kernels(one.trained) for recipe, one in firsts.items()}
    note = "Each scaled to its own largest weight; the frame is the narrowest width that uses the channel."
    return Figure("kernels", finding, note, kernels(tiles, finding))


def _correlations(looked: Sequence[Looked]) -> Figure:
    recipes = {name: of for name, of in by_recipe(looked).items() if of[0].alike}
    means = {name: [mean_of(list(one.ends_alike().values())) for one in of] for name, of in recipes.items()}
    finding = (
        "Responses of a channel at its network's narrowest and largest width correlate by "
        f"{listed(means, '.2f')}, mean over layers"
    )
    shown = {name: of[0].alike for name, of in recipes.items()}
    widths = {name: of[0].trained.widths for name, of in recipes.items()}
    note = (
        "Pearson's correlation of each channel over places of images, the mean over the channels that both widths have."
    )
    return Figure("correlations", finding, note, correlations(shown, widths, finding))


def _patches(one: Looked, held_out: HeldOut, settings: FeatureSettings) -> Figure:
    layer = layer_to_draw(one.trained, settings)
    found = excited(one.trained, held_out, layer=layer, channels=settings.channels, count=settings.patches)
    name, widths = one.trained.recipe.name, one.trained.widths
    finding = (
        f"The image that excites a channel most at width {name_of_width(widths[-1])} is the same at a narrower width "
        f"in {found.same} of {found.cases} cases ({name})"
    )
    label = f"{found.layer} at width {', '.join(map(name_of_width, widths))}, {settings.patches} patches each"
    note = (
        "The part of the image that the response depends on, the most exciting first; empty: not active at this width."
    )
    return Figure("patches", finding, note, patches(found.rows, finding, label))


def _caption(looked: Sequence[Looked], settings: FeatureSettings) -> Iterator[str]:
    seeds = sorted({one.trained.seed for one in looked})
    yield f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; pictures and matrices are of the first."
    norm, gradient, loss = MEASURES
    yield f"{norm.capitalize()}: L2, of the weights that make a channel."
    if any(gradient in one.importance for one in looked):
        yield f"{gradient.capitalize()}: L2 of their gradient, summed over the first {settings.gradient_steps} steps."
    yield f"{loss.capitalize()}: at full width, where nothing reads a channel."
    yield f"Each group of layers is read at {POSITIONS} places of its order."
