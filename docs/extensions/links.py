"""
Checks the built pages: every link within them leads somewhere, and every picture has its text.

    python docs/extensions/links.py docs/_build/html docs/_build/print

Links to other sites are not followed: a build asks no network.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """What a page refers to, what can be referred to in it, and its pictures without a text."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.mute: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        self.links += [found[name] for name in ("href", "src", "data", "action") if name in found and tag != "base"]
        if tag == "img" and not found.get("alt", "").strip():
            self.mute.append(found.get("src", "a picture"))


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def faults(site: Path) -> list[str]:
    """What is wrong with the pages in *site*, one line each."""
    site = site.resolve()
    pages = {path: _read(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"{site}: no pages"]
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: {picture}: a picture without a text" for picture in page.mute]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_relative_to(site):
                found.append(f"{name}: {link}: leads out of the site")
            elif not target.exists():
                found.append(f"{name}: {link}: there is no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: {link}: there is no such place in it")
    return list(dict.fromkeys(found))


def main(sites: list[str]) -> int:
    """Print every fault of *sites*; return the exit status."""
    found = [fault for site in sites for fault in faults(Path(site))]
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
