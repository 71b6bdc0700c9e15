"""HTML that opens from disk, without a network: a page, its tables, pictures and plots."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from results.draw_plotly import figure, plotly_library
from results.marks import Chart, Parallel
from results.rendering import as_html, cell_html
from results.tables import Row, show
from results.view import View


@dataclass(frozen=True)
class Section:
    """A part of the page with a link of its own."""

    name: str  # of its anchor
    title: str
    parts: Sequence[str]


def page_of(title: str, head: Sequence[str], sections: Sequence[Section]) -> str:
    """A whole page, dark or light as the reader's machine is; the sections that have something in them."""
    told = [section for section in sections if any(section.parts)]
    links = "".join(f'<a href="#{section.name}">{html.escape(section.title)}</a>' for section in told)
    body = [*head, f"<nav aria-label=contents>{links}</nav>"]
    for section in told:
        body.append(f'<section id="{section.name}"><h2>{html.escape(section.title)}</h2>')
        body += [*section.parts, "</section>"]
    text = "\n".join(body)
    scripts = f"<script>{plotly_library()}</script><script>{_SCRIPT}</script>" if 'class="chart"' in text else ""
    return _PAGE.format(title=html.escape(title), style=_STYLE, body=text, scripts=scripts)


def plot(chart: Chart) -> str:
    """A chart that the page draws when it is opened."""
    content = figure(chart).replace("</", "<\\/")
    reading = f"<figcaption>{html.escape(chart.reading)}</figcaption>" if chart.reading else ""
    wide = " wide" * any(isinstance(mark, Parallel) for mark in chart.marks)  # scrolled on a phone: its axes need room
    return (
        f'<figure tabindex=0><div class="chart{wide}" id="chart-{html.escape(chart.name)}" tabindex=0 role=img aria-label="{html.escape(chart.title)}">'
        f'</div><script type="application/json">{content}</script>{reading}</figure>'
    )


def titled(title: str, part: str) -> str:
    """A part under a heading of its own; nothing where there is no part."""
    return f"<h3>{html.escape(title)}</h3>{part}" if part else ""


def picture(alt: str, content: bytes, kind: str = "png") -> str:
    """A picture inside the page itself."""
    return f'<img loading=lazy alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'


def view_table(view: View) -> str:
    """A view under its title."""
    return f"<h3>{html.escape(view.title)}</h3>{as_html(view)}" if view.rows else ""


def folded_table(view: View) -> str:
    """A view that says in numbers what the chart above it shows."""
    return folded("as a table", as_html(view)) if view.rows else ""


def facts(rows: dict[str, str]) -> str:
    """Names and what they are, a row each."""
    body = "".join(
        f"<tr><th scope=row>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items()
    )
    return f"<table class=facts>{body}</table>"


def numbers(rows: dict[str, str]) -> str:
    """The few numbers on top, large."""
    return "<dl class=numbers>" + "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in rows.items()) + "</dl>"  # fmt: skip


def folded(title: str, part: str) -> str:
    """A part that is shown when it is asked for."""
    return f"<details><summary>{html.escape(title)}</summary>{part}</details>"


def table(rows: list[Row]) -> str:
    """Rows as an HTML table, the columns in order of appearance; nothing for none."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(cell_html(show(row.get(name))) for name in names) + "</tr>" for row in rows)
    return f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --back: #fff; --line: #8884; --soft: #6668; --accent: #0072B2; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --back: #16181c; --soft: #aaa8; --accent: #56B4E9; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 0 auto; max-width: 76rem; padding: 1rem; }
h1 { font-size: 1.7rem; margin: .5rem 0; } h2 { margin-top: 2.4rem; border-bottom: 1px solid var(--line); } h3 { margin: 1.4rem 0 .4rem; }
a { color: var(--accent); } :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.headline { font-size: 1.15rem; }
.verdict { font-size: 1.3rem; font-weight: 600; margin: 0.6rem 0 0.2rem; }
.more { margin: 0.1rem 0; color: var(--muted, inherit); }
nav { position: sticky; top: 0; background: var(--back); padding: .4rem 0; z-index: 5; display: flex; gap: .3rem 1rem; overflow-x: auto; border-bottom: 1px solid var(--line); }
nav a { white-space: nowrap; } section { scroll-margin-top: 3rem; }
.numbers { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 1rem 0; } .numbers dt { font-size: .8rem; opacity: .75; } .numbers dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .caption { font-size: .85rem; opacity: .85; margin-top: .4rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; vertical-align: top; }
td.words, .facts td { white-space: normal; min-width: 14rem; } .best td { font-weight: 650; }
.scroll, figure { overflow-x: auto; } figure { margin: .4rem 0 1.6rem; } figcaption { font-size: .85rem; opacity: .85; }
.chart { width: 100%; min-height: 340px; overflow: hidden; } .wide { min-width: 46rem; } .grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem; }
img { max-width: 100%; height: auto; } figure img { width: min(100%, 60rem); } code, pre { font-size: .85rem; } pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); }
summary { cursor: pointer; }
@media (max-width: 600px) { td.words div { max-height: 4.6em; overflow: auto; } }
"""

_SCRIPT = """
const pointer = window.matchMedia('(hover: hover)'), dark = window.matchMedia('(prefers-color-scheme: dark)');
function theme() {
  const text = dark.matches ? '#e6e6e6' : '#1b1b1b', grid = dark.matches ? '#ffffff22' : '#00000018';
  return {'font.color': text, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', 'xaxis.gridcolor': grid, 'yaxis.gridcolor': grid,
          'xaxis.zerolinecolor': grid, 'yaxis.zerolinecolor': grid};
}
const charts = [...document.querySelectorAll('.chart')];
function draw(node) {
  const {data, layout} = JSON.parse(node.nextElementSibling.textContent);
  return Plotly.newPlot(node, data, layout, {responsive: true, displaylogo: false, displayModeBar: pointer.matches ? 'hover' : false}).then(() => Plotly.relayout(node, theme()));
}
const seen = new IntersectionObserver(entries => entries.forEach(entry => {
  if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
}), {rootMargin: '600px'});
charts.forEach(node => seen.observe(node));
window.addEventListener('beforeprint', () => charts.forEach(node => node.data || draw(node)));
dark.addEventListener('change', () => charts.forEach(node => node.data && Plotly.relayout(node, theme())));
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{title}</title><style>{style}</style></head><body>
{body}
{scripts}
</body></html>
"""
