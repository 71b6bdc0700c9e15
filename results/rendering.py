"""A view as Markdown, CSV, LaTeX (booktabs), a terminal's table (rich) or HTML."""

from __future__ import annotations

import argparse
import html
from collections.abc import Collection, Sequence
from typing import Any

from results.tables import as_csv
from results.view import View

FORMATS = ("md", "csv", "latex")
LONGEST_LINE = 36  # characters of a cell that is never broken
TEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def render(view: View, kind: str) -> str:
    """The view as text of one of FORMATS."""
    return {"md": as_markdown, "csv": lambda v: as_csv(v.rows), "latex": as_latex}[kind](view)


def as_markdown(view: View) -> str:
    """A Markdown table, the best in bold, the caption under it."""
    lines = ["| " + " | ".join(view.columns) + " |"]
    lines.append("|" + "|".join("---" if name in view.texts else "---:" for name in view.columns) + "|")
    for n, row in enumerate(view.cells()):
        cells = [_plain_markdown(cell) for cell in row]
        told = [f"**{cell}**" if n in view.bold and cell not in ("", "-") else cell for cell in cells]
        lines.append("| " + " | ".join(told) + " |")
    return "\n".join(lines) + f"\n\n{_plain_markdown(view.caption)}.\n"


def _plain_markdown(text: str) -> str:
    """Text whose stars and bars Markdown leaves alone."""
    return text.replace("|", "\\|").replace("*", "\\*")


def as_latex(view: View) -> str:
    """A LaTeX table for the package booktabs, the best in bold."""
    return latex_table(list(view.columns), view.texts, view.cells(), f"{view.caption}.", view.name, view.bold)


def latex_table(
    headings: Sequence[str], texts: Collection[str], rows: Sequence[Sequence[str]], caption: str, label: str,
    bold: Collection[int] = (),
) -> str:  # fmt: skip
    """Cells under headings, those in `texts` at the left, for the package booktabs."""
    kinds = "".join("l" if name in texts else "r" for name in headings)
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{tex(caption)}}}", rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", " & ".join(tex(name) for name in headings) + r" \\", r"\midrule",
    ]  # fmt: skip
    for n, cells in enumerate(rows):
        told = [rf"\textbf{{{tex(cell)}}}" if n in bold else tex(cell) for cell in cells]
        lines.append(" & ".join(told) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def tex(text: str) -> str:
    """Text as LaTeX reads it as text."""
    return "".join(TEX_SPECIAL.get(character, character) for character in text)


def as_rich(view: View) -> Any:
    """A table for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=view.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=escape(view.caption + "."),
        caption_justify="left",
    )  # fmt: skip
    for name in view.columns:
        table.add_column(
            name,
            justify="left" if name in view.texts else "right",
            no_wrap=name != "differs from the base in",
            overflow="fold",
        )
    for n, cells in enumerate(view.cells()):
        table.add_row(*map(escape, cells), style="bold" if n in view.bold else None)
    return table


def as_html(view: View) -> str:
    """A table of a page, with its caption."""
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in view.columns)
    body = []
    for n, cells in enumerate(view.cells()):
        told = "".join(map(cell_html, cells))
        body.append(f"<tr{' class=best' if n in view.bold else ''}>{told}</tr>")
    return (
        f"<div class=scroll tabindex=0><table aria-label='{html.escape(view.title)}'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div><p class=caption>{html.escape(view.caption)}.</p>"
    )


def cell_html(text: str) -> str:
    """A cell; one that holds more than a few words may break into lines."""
    told = html.escape(text)
    return f"<td class=words><div>{told}</div></td>" if len(text) > LONGEST_LINE else f"<td>{told}</td>"


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """How tables are written, and which images are not independent: the same for every command that prints them."""
    parser.add_argument("--as", dest="kind", choices=FORMATS, help="(default: for the terminal)")
    add_group_option(parser)


def add_group_option(parser: argparse.ArgumentParser) -> None:
    """Which images are not independent."""
    parser.add_argument(
        "--group-by", metavar="KEY", help="key of the validation images' COCO records whose images are not independent, e.g. sequence"
    )  # fmt: skip


def print_views(found: Sequence[View], kind: str | None) -> None:
    """Prints views in one of FORMATS, or for the terminal."""
    if kind is not None:
        print("\n".join(render(view, kind) for view in found), end="")
        return
    from rich.console import Console

    console = Console()
    for view in found:
        console.print(as_rich(view), highlight=False)
