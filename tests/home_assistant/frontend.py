"""Home Assistant's own frontend in a real browser."""

import contextlib
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "page"))

from browser import Browser

#: What a first visit has to wait for, in ms: the frontend is 200 MB, and is not in the browser's memory yet.
PATIENCE_MS = 60_000


@contextlib.contextmanager
def frontend(home_assistant, *, at=None, width=1100, height=800):
    """
    A page of a browser in which the owner of *home_assistant* has logged in; its frontend is opened by ``goto``.

    The browser's clock shows *at*, or without it Home Assistant's time.

    For this Home Assistant is started again at the world's pace: it ends a
    connection that does not log in within 10 s, of its clock.
    """
    home_assistant.restart(rate=1)
    origin = f"http://127.0.0.1:{home_assistant.port}"
    # As its login page would leave it there.
    tokens = {
        "access_token": (home_assistant.directory / "token").read_text(),
        "token_type": "Bearer",
        "expires_in": 1800,
        "hassUrl": origin,
        "clientId": f"{origin}/",
        "expires": 9_999_999_999_999,
        "refresh_token": "",
    }
    with Browser() as browser, browser.view(origin, width=width) as view:
        page = view.page
        page.set_viewport_size({"width": width, "height": height})
        page.set_default_timeout(PATIENCE_MS)
        page.clock.install(time=at or home_assistant.now())
        page.add_init_script(f"localStorage.setItem('hassTokens', {json.dumps(json.dumps(tokens))})")
        yield page


def address(home_assistant, path):
    """The address of *path* in its frontend."""
    return f"http://127.0.0.1:{home_assistant.port}{path}"


@contextlib.contextmanager
def energy_dashboard(home_assistant, **options):
    """A page that shows its energy dashboard; the *options* are those of :func:`frontend`."""
    with frontend(home_assistant, **options) as page:
        page.goto(address(home_assistant, "/energy"))
        page.locator("hui-energy-sources-table-card").get_by_text("kWh").first.wait_for()
        yield page
