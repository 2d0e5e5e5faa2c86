"""A table for reading: plain text cells, written as Markdown, LaTeX or on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%#_{}$"}
    | {
        "±": "$\\pm$",
        ">": "$>$",
        "<": "$<$",
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
    }
)


@dataclass(frozen=True)
class Grid:
    """One table: the title, the columns' heads, and the rows; what the first column says names the row."""

    title: str
    head: list[str]
    rows: list[list[str]]


def markdown(grid: Grid) -> str:
    """The table below its title in bold."""
    return f"**{grid.title}**\n\n{markdown_table(grid.head, grid.rows)}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """The bare table; the first columns are `words`, the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    lines = ([cell.replace("|", "\\|") for cell in cells] for cells in (head, rule, *rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def latex(grid: Grid) -> list[str]:
    """The lines of a tabular (needs booktabs), below its title."""
    columns = "l" + "r" * (len(grid.head) - 1)
    head, *rows = (" & ".join(escaped(cell) for cell in cells) + " \\\\" for cells in (grid.head, *grid.rows))
    opened = ["", f"{escaped(grid.title)}\\\\", f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    return [*opened, head, "\\midrule", *rows, "\\bottomrule", "\\end{tabular}", ""]


def show_grid(grid: Grid, console: Console) -> None:
    """On a console; wider than it, where the numbers would be cut."""
    table = Table(title=Text(grid.title), title_justify="left")
    for number, head in enumerate(grid.head):
        longest = max(len(row[number]) for row in [grid.head, *grid.rows])
        if number == 0:
            table.add_column(Text(head))
        else:
            table.add_column(Text(head), justify="right", no_wrap=True, min_width=longest)
    for row in grid.rows:
        table.add_row(*map(Text, row))
    needed = console.measure(table, options=console.options.update(max_width=10_000)).minimum
    console.print(table, width=max(console.width, needed), crop=False)


def escaped(text: str) -> str:
    """Text as LaTeX shows it."""
    return text.translate(LATEX)
