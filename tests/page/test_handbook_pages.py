"""The handbook in a real browser: every kind of page, on a telephone and on a desktop, and its copy button."""

import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
WIDTHS = [390, 1280]

#: One page of each kind at least, and those that are widest: tables, long lines, pictures, signatures.
PAGES = [
    "index.html",
    "tutorial/laptop.html",
    "howto/index.html",
    "howto/build.html",
    "howto/mount.html",
    "howto/influxdb.html",
    "howto/page.html",
    "explanation/circuit.html",
    "explanation/data.html",
    "reference/api.html",
    "reference/command-line.html",
    "reference/delivered.html",
    "reference/log-messages.html",
    "reference/pi.html",
    "reference/settings.html",
    "reference/wiring.html",
    "benchmarks.html",
    "reliability.html",
    "genindex.html",
    "search.html",
]

#: What does not fit: the page that scrolls sideways, pictures that are wider than the column or missing.
UNFIT = """() => {
  const found = [];
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 0) found.push(`scrolls sideways by ${wide} px`);
  for (const picture of document.querySelectorAll("article img")) {
    const at = picture.getBoundingClientRect();
    const column = picture.closest("article").getBoundingClientRect();
    if (!picture.complete || !picture.naturalWidth) found.push(`is missing: ${picture.src}`);
    if (at.left < column.left - 1 || at.right > column.right + 1) found.push(`is too wide: ${picture.src}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def handbook(tmp_path_factory):
    """The address of the handbook, made of the sources as they are."""
    site = tmp_path_factory.mktemp("handbook")
    subprocess.run([sys.executable, "-m", "sphinx", "-q", "-b", "html", DOCS, site], check=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("width", WIDTHS)
def test_each_kind_of_page_fits(browser, handbook, width):
    """No page scrolls sideways, no picture is wider than its column, and the browser complains of nothing."""
    with browser.view(handbook, width=width) as view:
        for page in PAGES:
            assert view.go(page) == 200, page
            assert view.page.evaluate(UNFIT) == [], page
        assert view.messages == []
        assert view.elsewhere() == []


def copied(page, text):
    """What the button of the block of code that has *text* puts on the clipboard."""
    block = page.locator("div.highlight", has_text=text).first
    block.hover()
    block.locator(".copy-button").click()
    block.get_by_text("Copied").wait_for()
    return page.evaluate("navigator.clipboard.readText()")


def test_a_command_is_copied_without_its_prompt(browser, handbook):
    """The button copies what one types, over several lines too: no prompt, and nothing that is printed."""
    with browser.view(handbook) as view:
        view.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        view.go("howto/install.html")
        assert copied(view.page, "getconf") == "getconf LONG_BIT\npython3 --version"
        assert copied(view.page, "--check") == "venv/bin/python src/power.py --check"
        view.go("howto/influxdb.html")
        first, *others = copied(view.page, "openssl").splitlines()
        assert first.startswith("openssl req -x509 ")
        assert not [line for line in others if line.startswith((">", "$", "..."))]
        view.go("howto/settings.html")
        assert copied(view.page, "METERS").startswith('METERS = {\n    "house": {\n')
        assert view.messages == []


def test_prompts_are_not_selected(browser, handbook):
    """Selected by hand, a command line comes without its prompt as well."""
    with browser.view(handbook) as view:
        view.go("howto/install.html")
        view.page.evaluate("getSelection().selectAllChildren(document.querySelector('div.highlight pre'))")
        selected = view.page.evaluate("getSelection().toString()")
        assert "getconf LONG_BIT" in selected
        assert "$" not in selected


def test_a_copy_button_is_reached_by_keyboard(browser, handbook):
    """The button can be focused, and is seen then."""
    with browser.view(handbook) as view:
        view.go("howto/install.html")
        button = view.page.locator(".copy-button").first
        assert button.evaluate("(button) => getComputedStyle(button).opacity") == "0"
        button.focus()
        view.page.keyboard.press("Shift+Tab")
        view.page.keyboard.press("Tab")
        assert button.evaluate("(button) => button === document.activeElement")
        assert button.evaluate("(button) => getComputedStyle(button).opacity") == "1"
