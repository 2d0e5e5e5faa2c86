"""Writes docs/families.md, what `convert` makes of each family: `python -m tests.families.page`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from tests.families.findings import OUTPUT, WIDTHS, Finding, finding
from tests.families.members import MEMBERS, Member
from tests.families.packages import NAMES, module
from tests.families.twins import TWINS

PAGE = Path(__file__).parent.parent.parent / "docs" / "families.md"
COMMAND = "tox exec -e unit -- python -m tests.families.page"
COLUMNS = (
    "network", "verdict", "layers that slim", "groups", "share", "multiply-adds", "seconds", "difference", "stays full",
)  # fmt: skip

HEAD = """\
# Which networks `convert` makes slimmable

Made by `{command}`, which converts every network below and compares it; do not edit.
{versions}; random weights,
two images of 64 x 64 (more where a network needs more), small configurations of transformers.

**{count} networks; at width 0.5 a network is left with {mean:.3f} of its parameters, in the mean** (refused: 1). The
list was fixed before it was measured.

- *slims*: every layer but those that give the output. *in part*: some other layers stay full, for the reason in
  the last column (`print(net.slim)` gives it for each layer). *refused*: `convert` raised the error shown, and left the
  network as it was.
- *share*, *multiply-adds*: what is left of the parameters and of the multiply-adds at width 0.5, channels rounded to
  multiples of 8.
- *seconds*: of one core that `convert` took, on a machine with other work to do.
- *difference*: the largest from the dense network of the slices (the same network with every other weight zero), of its
  outputs at widths {widths} and of its outputs and gradients in training mode at 0.5; in double precision (where
  transformers do not compute in single precision by themselves), relative to the largest value. At width 1.0 every
  network is the dense one bit for bit, gradients included.
- Families with a star have also been compared with a network whose class was built with half the channels.
"""


def page(findings: Mapping[Member, Finding]) -> str:
    versions = [f"{name} {module(name).__version__.partition('+')[0]}" for name in ("torch", *NAMES)]
    mean = fmean(found.left for found in findings.values())
    head = HEAD.format(
        command=COMMAND,
        versions=", ".join(versions),
        count=len(findings),
        mean=mean,
        widths=", ".join(map(str, WIDTHS)),
    )
    lines = [head, row(("family", *COLUMNS))]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for member, found in findings.items():
        star = "\\*" if member.family in TWINS else ""
        lines.append(row((f"{member.family}{star}", f"`{member.name}` ({member.package})", *cells(found))))
    return "\n".join(lines) + "\n"


def cells(found: Finding) -> Sequence[str]:
    if found.refused:
        return found.verdict, "", "", "1", "", f"{found.seconds:.1f}", "", found.refused.partition(": slimlib")[0]
    return (
        found.verdict,
        str(found.layers),
        str(found.groups),
        f"{found.parameters:.3f}",
        f"{found.macs:.3f}",
        f"{found.seconds:.1f}",
        f"{found.difference:.0e}",
        stays_full(found.kept),
    )


def stays_full(kept: Mapping[str, str]) -> str:
    """The layers that stay full, by reason, without the one that every classifier has."""
    layers: dict[str, list[str]] = {}
    for layer, why in kept.items():
        if why != OUTPUT:
            layers.setdefault(short(why), []).append(layer)
    return "; ".join(f"{several(names)}: {why}" for why, names in layers.items())


def short(why: str) -> str:
    """A reason without the layer and the sizes that it was found with."""
    text, _, where = why.partition(": ")
    text = re.sub(r", with those of '.*'|\(.*\)?", "", text).strip()
    operation = where.partition(" in ")[0]
    return f"{text} (`{operation}`)" if re.fullmatch(r"\w+", operation) else text


def several(names: Sequence[str]) -> str:
    return f"`{names[0]}`" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def verdicts(text: str) -> list[tuple[str, ...]]:
    """Family, network and verdict of each row of a page."""
    rows = [tuple(cell.strip() for cell in line.split("|")[1:4]) for line in text.splitlines() if line[:2] == "| "]
    return rows[2:]


def main() -> None:
    findings = {}
    for member in MEMBERS:
        findings[member] = finding(member)
        print(f"{member}: {findings[member].verdict}", file=sys.stderr, flush=True)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(findings))


if __name__ == "__main__":
    main()
