"""A real tensorboard on a study's folder, opened in a browser: the HParams tab has a row a trial."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from results.state import read_study
from results.tensorboard import write_events
from tests.results.browser import complaints, open_browser, show, wait

pytestmark = pytest.mark.slow

# What a person reads, shadow roots included: the tab is made of web components.
READ = """
const read = node => node.nodeType === Node.TEXT_NODE ? node.textContent : ['STYLE', 'SCRIPT', 'TEMPLATE'].includes(node.nodeName) ? ''
  : [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes].map(read).join(' ');
const all = read(document.body);
"""


@pytest.fixture
def served(finals: Path) -> Iterator[str]:
    """The address of a tensorboard that serves the study, on the loopback interface and a port that was free."""
    write_events(finals)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(finals), "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = ""
    for line in server.stderr:
        found = re.search(r"http://\S+", line)
        if found:
            address = found[0]
            break
    threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop it
    assert address, "tensorboard did not start"
    yield address
    server.terminate()
    server.wait(30)


def test_the_hparams_tab_has_a_row_a_configuration_with_its_fields(served: str, finals: Path) -> None:
    browser = open_browser()
    try:
        show(browser, f"{served}#hparams", 1800, 1600)
        rows = [trial.config_hash for trial in read_study(finals)[1].trials.values()]
        there = " && ".join(f"all.includes('{config}')" for config in {*rows, "Trial ID"})
        text = wait(browser, READ + f"return {there} ? all : 0")
        for name in ("lr", "box_loss", "seed", "role", "state", "rung", "best/mAP", "best/AP50"):
            assert re.search(rf"\s{name}\s", text), name
        assert len(set(rows)) == 6
        assert "0.405" in text, "the best's four seeds .42, .39, .40, .41 are one row, with their mean"
        assert complaints(browser) == []
    finally:
        browser.quit()
