"""HTML that opens from disk, without a network: a page, its tables and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from results.tables import Row, show


def page_of(title: str, parts: Sequence[str]) -> str:
    """A whole page of these parts, dark or light as the reader's machine is."""
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def picture(alt: str, png: bytes) -> str:
    """A PNG inside the page itself."""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def table(rows: list[Row]) -> str:
    """Rows as an HTML table, the columns in order of appearance."""
    if not rows:
        return "<p>none</p>"
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(show(row.get(name)))}</td>" for name in names) + "</tr>" for row in rows
    )
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}
.headline {{ font-size: 1.25rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left; white-space: nowrap; }}
.facts td {{ white-space: normal; }}
.scroll {{ overflow-x: auto; }}
img {{ max-width: 100%; height: auto; background: white; }}
</style></head><body>
{body}
</body></html>
"""
