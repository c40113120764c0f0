"""A real browser that looks at the page, and notes what it should not have to: messages, requests to other hosts."""

import contextlib
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright
from server import cache

#: Debian's. As root it has no sandbox.
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGS = ["--no-sandbox"] if os.geteuid() == 0 else []

#: Looks for barriers; what it finds is a list of rules that the page breaks.
AXE = cache() / "axe-core" / "package" / "axe.min.js"

#: What lies outside the window, or outside its card, and labels of a chart that overlap: each with its text.
MISPLACED = """() => {
  const found = [];
  const shown = (el) => el.checkVisibility() && !el.closest(".unseen");
  const name = (el) => `${el.tagName}.${el.getAttribute("class") || ""} ${(el.textContent || "").trim().slice(0, 40)}`;
  const outside = (a, b) => a.width > 0 && (a.left < b.left - 1 || a.right > b.right + 1);
  const page = new DOMRect(0, 0, document.documentElement.clientWidth, 0);
  for (const el of document.querySelectorAll("body *")) {
    if (!shown(el) || el.tagName === "title") continue;
    const at = el.getBoundingClientRect();
    if (outside(at, page)) found.push(`outside: ${name(el)}`);
    const card = el.parentElement.closest(".card");
    if (card && outside(at, card.getBoundingClientRect())) found.push(`outside its card: ${name(el)}`);
    const { overflowX, textOverflow } = getComputedStyle(el);
    if (overflowX !== "visible" && el.scrollWidth > el.clientWidth + 1) found.push(`cut off: ${name(el)}`);
  }
  for (const plot of document.querySelectorAll("svg.plot")) {
    const labels = [...plot.querySelectorAll("text")].filter(shown).map((el) => [el, el.getBoundingClientRect()]);
    labels.forEach(([el, at], i) => {
      const next = labels[i + 1];
      if (next && at.right > next[1].left) found.push(`overlaps: ${name(el)} and ${name(next[0])}`);
    });
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push("the page scrolls sideways");
  return found;
}"""


class View:
    """One window at the page whose start is *address*."""

    def __init__(self, context, address):
        self.page = context.new_page()
        self.address = address
        self.messages, self.requests, self.sizes = [], [], []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def go(self, path=""):
        """Open *path*, relative to the start, and return its status."""
        return self.page.goto(self.address + path).status

    def misplaced(self):
        return self.page.evaluate(MISPLACED)

    def barriers(self):
        """What axe-core finds: the rules, and where."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("async () => (await axe.run()).violations")
        return [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found]

    def elsewhere(self):
        """The requests to other hosts than the page's own."""
        own = urlsplit(self.address).netloc
        return [url for url in self.requests if urlsplit(url).netloc != own and not url.startswith("data:")]


class Browser:
    """Chromium; a context manager."""

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        playwright = self._stack.enter_context(sync_playwright())
        self._chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        self._stack.callback(self._chromium.close)
        return self

    def __exit__(self, *_):
        self._stack.close()

    @contextlib.contextmanager
    def view(self, address, *, width=1440, dark=False, scripts=True, scale=1):
        """A window of its own, without what another has kept."""
        context = self._chromium.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
            device_scale_factor=scale,
        )
        try:
            yield View(context, address)
        finally:
            context.close()


def needs():
    """What is missing for these tests, "" if nothing is."""
    if not Path(CHROMIUM).exists():
        return "chromium is missing: sudo apt install chromium"
    return "" if AXE.exists() else "axe-core is missing: make test-page fetches it"
