"""The report as a browser shows it: nothing asked of a network, no complaint, every plot drawn, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains

from results.report import write_results
from tests.results.browser import complaints, open_browser, requests, show, wait

pytestmark = pytest.mark.slow
WIDTHS = (1400, 390)
DRAW_ALL = """
document.querySelectorAll('details').forEach(node => node.open = true);
const charts = [...document.querySelectorAll('.chart')];
const waiting = charts.filter(node => !node.querySelector('.main-svg'));
if (waiting.length) { waiting[0].scrollIntoView(); return 0; }
return charts.length;
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = open_browser()
    yield driver
    driver.quit()


@pytest.fixture
def report(seen: Path) -> Path:
    write_results(seen)
    return seen / "results" / "report.html"


@pytest.fixture
def ablation(chain: Path) -> Path:
    write_results(chain)
    return chain / "results" / "report.html"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["report", "ablation"])
def test_every_plot_is_drawn_without_a_complaint_or_a_request(
    browser: Any, which: str, width: int, request: pytest.FixtureRequest
) -> None:
    page = request.getfixturevalue(which)
    complaints(browser), requests(browser)
    show(browser, page, width)
    drawn = wait(browser, DRAW_ALL)
    assert drawn >= 2, "curves and classes, or curves and the waterfall, at the least"
    assert complaints(browser) == []
    assert [url for url in requests(browser) if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(browser: Any, report: Path, width: int) -> None:
    show(browser, report, width)
    wait(browser, DRAW_ALL)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wide = browser.execute_script(
        "return [...document.querySelectorAll('.chart, .chart .main-svg, figure img')].filter(node => !node.closest('.wide')"
        " && node.getBoundingClientRect().right > window.innerWidth + 1).map(node => node.id || node.className.baseVal)"
    )
    assert wide == []
    # Parallel coordinates need room for their axes: they scroll inside their figure.
    outside = browser.execute_script(
        "return [...document.querySelectorAll('.wide')].filter(node => node.closest('figure').getBoundingClientRect().right > "
        "window.innerWidth + 1).length"
    )
    assert outside == 0


def test_every_link_leads_to_a_part_of_the_page(browser: Any, report: Path) -> None:
    show(browser, report)
    links = browser.execute_script("return [...document.querySelectorAll('a')].map(node => node.getAttribute('href'))")
    assert len(links) >= 5
    for link in links:
        assert link.startswith("#")
        assert browser.execute_script("return !!document.getElementById(arguments[0])", link[1:]), link


def test_it_can_be_used_by_keyboard_alone(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, report)
    focused = "return document.activeElement"
    browser.switch_to.active_element.send_keys(Keys.TAB)
    first = browser.execute_script(focused)
    assert first.tag_name == "a"
    first.send_keys(Keys.ENTER)
    assert browser.execute_script("return location.hash") == first.get_attribute("hash")
    tables = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].every(node => node.tabIndex === 0)"
    )
    assert tables, "a table that is wider than the page is scrolled by arrow keys once it has the focus"
    summary = browser.execute_script("const node = document.querySelector('summary'); node.focus(); return node")
    summary.send_keys(Keys.ENTER)
    assert browser.execute_script("return document.querySelector('details').open")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1) of rgb(..) or #rrggbb."""
    parts = [int(colour[n : n + 2], 16) for n in (1, 3, 5)] if colour.startswith("#") else [int(p) for p in colour[colour.index("(") + 1 : -1].split(",")[:3]]  # fmt: skip
    linear = [c / 3294.6 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_by_day_and_by_night(browser: Any, report: Path, dark: bool) -> None:
    show(browser, report, dark=dark)
    wait(browser, DRAW_ALL)
    back, text, link = browser.execute_script(
        "const style = (node, name) => getComputedStyle(node)[name]; return [style(document.body, 'backgroundColor'),"
        " style(document.body, 'color'), style(document.querySelector('a'), 'color')]"
    )
    assert (luminance(back) < 0.1) == dark
    plotted = browser.execute_script("return document.querySelector('.chart').layout.font.color")
    for colour in (text, link, plotted):
        light, deep = sorted([luminance(colour), luminance(back)], reverse=True)
        assert (light + 0.05) / (deep + 0.05) >= 4.5, (colour, back)


def test_charts_answer_to_a_pointer(browser: Any, report: Path) -> None:
    """Drawn by plotly and not as a picture: a click in the legend dims a line."""
    show(browser, report)
    wait(browser, DRAW_ALL)
    toggle = browser.execute_script(
        "const node = document.querySelector('#chart-curves .legendtoggle'); node.scrollIntoView({block: 'center'}); return node"
    )
    ActionChains(browser).move_to_element(toggle).click().perform()
    hidden = wait(
        browser,
        "return document.getElementById('chart-curves').data.filter(line => line.visible === 'legendonly').length",
    )
    assert hidden == 1
