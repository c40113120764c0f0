"""The page in a real browser: at every width, by day and night, by mouse and keyboard, with and without scripts."""

import datetime as dt
import itertools
import re
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pictures
import pytest
from caddy import Caddy, caddy_path
from nginx import Nginx, nginx_path
from page_client import get, page_settings
from PIL import Image
from program import Program, wait_until
from server import free_port

#: What is looked at, and its status.
TODAY = dt.date.today()
PATHS = {
    "": 200,
    "bars?span=today": 200,
    f"bars?span={TODAY:%Y-%m}": 200,
    f"bars?span={TODAY:%Y}": 200,
    "bars?span=all": 200,
    f"bars?span={TODAY - dt.timedelta(days=13)}..{TODAY}": 200,
    "bars?span=never": 400,
    "a/b": 404,
}
#: Where the handbook has its pictures, and says how to put a proxy before the page.
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "img"
HOWTO = IMAGES.parent / "howto" / "page.rst"

WIDTHS = [360, 768, 1440]


@pytest.mark.parametrize(("width", "dark"), [*itertools.product(WIDTHS, (False, True))])
def test_every_page_fits_and_has_no_barriers(browser, household, width, dark):
    """Nothing is cut off, overlaps or scrolls sideways; axe-core finds nothing; the browser complains of nothing."""
    with browser.view(household.address, width=width, dark=dark) as view:
        for path, status in PATHS.items():
            assert view.go(path) == status
            for summary in view.page.query_selector_all("summary"):
                summary.click()
            assert view.misplaced() == []
            assert view.barriers() == []
        # That a page of an error is one is all that the browser says.
        assert [text for text in view.messages if "status of 40" not in text] == []
        assert view.elsewhere() == []


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_do_without_scripts(browser, household, width):
    """Without scripts each page is as complete, and its numbers can be opened."""
    with browser.view(household.address, width=width, scripts=False) as view:
        for path, status in PATHS.items():
            assert view.go(path) == status
            for summary in view.page.query_selector_all("summary"):
                summary.click()
            assert view.misplaced() == []
        view.go()
        assert re.search(r"\d W", view.page.inner_text("#now"))
        assert "writer influxdb" in view.page.inner_text("#alert")
        assert view.elsewhere() == []


def test_a_first_view_is_small(browser, household):
    """The start page comes in three requests, of at most 100 KB together, and as it is: nothing is compressed."""
    with browser.view(household.address) as view:
        sizes = []
        view.page.on("response", lambda response: sizes.append((response.url, len(response.body()))))
        view.page.goto(household.address, wait_until="networkidle")
        first = [(url, size) for url, size in sizes if not url.endswith("/live")]
        assert len(first) == 3
        assert sum(size for _, size in first) <= 100_000


# --- By keyboard


def stops(page):
    """What the Tab key comes to, from the start of the page to its end; each is seen to have the focus."""
    found = []
    for _ in range(100):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """() => {
                 const el = document.activeElement;
                 if (el === document.body) return null;
                 const seen = el.matches(":focus-visible") &&
                   [el, ...el.querySelectorAll(".hit")].some((part) => {
                     const { outlineStyle, outlineWidth, stroke } = getComputedStyle(part);
                     return (outlineStyle !== "none" && parseFloat(outlineWidth) > 1) || stroke !== "none";
                   });
                 return [el.getAttribute("href") || el.textContent, seen];
               }"""
        )
        if at is None:
            return found
        found.append(at)
    pytest.fail("more than 100 stops")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_month_has_few_stops(browser, household, scripts):
    """By Tab all of a month's page is reached in few steps, each to be seen; of its bars one is a stop."""
    with browser.view(household.address, scripts=scripts) as view:
        view.go(f"bars?span={TODAY:%Y-%m}")
        found = stops(view.page)
        assert [where for where, seen in found if not seen] == []
        assert [where for where, _ in found].count(f"bars?span={TODAY}") == 1
        assert len(found) < 20


def tab_to(page, selector):
    for _ in range(100):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"Tab does not come to {selector}")


def test_bars_are_walked_by_arrow_keys(browser, household):
    """The arrow keys go from bar to bar, Home and End to the ends, and Enter opens the day; with the keyboard only."""
    with browser.view(household.address) as view:
        view.go()
        focused = "() => document.activeElement.getAttribute('href')"
        tab_to(view.page, "svg.plot a")
        assert view.page.evaluate(focused) == f"bars?span={TODAY}"
        view.page.keyboard.press("Home")
        assert view.page.evaluate(focused) == f"bars?span={TODAY - dt.timedelta(days=13)}"
        view.page.keyboard.press("ArrowLeft")
        view.page.keyboard.press("ArrowRight")
        day = TODAY - dt.timedelta(days=12)
        assert view.page.evaluate(focused) == f"bars?span={day}"
        view.page.keyboard.press("Enter")
        view.page.wait_for_url(f"**/bars?span={day}")
        assert str(day.day) in view.page.inner_text("h1")
        tab_to(view.page, "summary")
        view.page.keyboard.press("Enter")
        assert view.page.is_visible("table")


def test_numbers_are_reached_without_scripts(browser, household):
    """Without scripts the other days of a month are reached by the table, by keyboard too."""
    with browser.view(household.address, scripts=False) as view:
        view.go(f"bars?span={TODAY:%Y-%m}")
        tab_to(view.page, "summary")
        view.page.keyboard.press("Enter")
        tab_to(view.page, "table a")
        view.page.keyboard.press("Enter")
        view.page.wait_for_url(f"**/bars?span={TODAY:%Y-%m}-01")


# --- Numbers


def tables(page):
    """The rows of each table, by its meter."""
    found = {}
    for section in page.query_selector_all("section:has(table)"):
        section.query_selector("summary").click()
        rows = section.query_selector_all("tbody tr, tfoot tr")
        cells = [[cell.text_content().strip() for cell in row.query_selector_all("th, td")] for row in rows]
        found[section.query_selector("h2").inner_text()] = cells
    return found


@pytest.mark.parametrize("span", ["yesterday", f"{TODAY - dt.timedelta(days=30)}..{TODAY - dt.timedelta(days=1)}"])
def test_numbers_are_those_of_the_report(browser, household, span):
    """Each cell of a past span is what --report prints, for each meter."""
    done = household.run("--report", span)
    with browser.view(household.address) as view:
        view.go(f"bars?span={span}")
        found = tables(view.page)
    assert len(found) == 2
    for meter, rows in found.items():
        printed = done.stdout.partition(f"\n{meter}\n")[2].split("\n\n")[0].splitlines()[1:]
        assert [" ".join(line.split()) for line in printed] == [" ".join(filter(None, cells)) for cells in rows]


def test_live_numbers_follow_the_flashes(browser, tmp_path):
    """Power and today's energy follow what is counted; a page that is cut off says so, and goes on afterwards."""
    port = free_port()
    settings = f'WRITERS = {{"file": {{"type": "file"}}}}\nPAGE = {{"port": {port}}}'
    today = "parseFloat(document.querySelector('#now dd a').textContent)"
    with Program(tmp_path, settings) as program, browser.view(f"http://127.0.0.1:{port}/") as view:
        program.start("--simulate", "18000")
        wait_until(lambda: program.status()["meters"]["house"]["watts"])
        view.go()
        before = program.status()["meters"]["house"]["kwh_today"]
        view.page.wait_for_function(f"() => {today} > {before + 0.02}")
        assert view.page.evaluate(today) <= program.status()["meters"]["house"]["kwh_today"] + 0.001
        assert "18,000 W" in " ".join(view.page.inner_text("#now").split())
        assert view.page.title() == "18,000 W · power"
        assert view.messages == []
        program.run("--kill")
        view.page.wait_for_selector("#lost", state="visible")
        program.start("--simulate", "9000")
        view.page.wait_for_selector("#lost", state="hidden")
        view.page.wait_for_function("() => document.querySelector('#now b').textContent === '9,000'")


# --- Behind a proxy


def behind_nginx(directory, address):
    """An nginx with the handbook's lines, before the page at *address*."""
    (lines,) = re.findall(r"code-block:: nginx\n\n((?:   .*\n)+)", HOWTO.read_text())
    return Nginx(directory, lines.replace("http://127.0.0.1:8080/", address))


def behind_caddy(directory, address):
    """A Caddy with the handbook's lines, before the page at *address*."""
    (lines,) = re.findall(r"   nas\.home \{\n((?:       .*\n)+)   \}", HOWTO.read_text())
    return Caddy(directory, lines.replace("127.0.0.1:8080", urlsplit(address).netloc))


@pytest.fixture(params=[behind_nginx, behind_caddy])
def behind(request):
    if not (nginx_path().exists() and caddy_path().exists()):
        pytest.fail("run: make servers", pytrace=False)
    return request.param


def test_it_works_below_any_path(browser, household, tmp_path, behind):
    """Behind a proxy, with the handbook's own lines, every link leads to a page, and the live part lives."""
    with behind(tmp_path, household.address) as proxy:
        start = f"http://127.0.0.1:{proxy.port}/power/"
        with browser.view(start) as view:
            assert view.page.goto(start.removesuffix("/")).status == 200
            assert view.page.url == start
            seen, left = set(), {start}
            while left and len(seen) < 40:
                url = left.pop()
                seen.add(url)
                if "history.csv" in url:
                    with urllib.request.urlopen(url) as answer:
                        assert answer.status == 200
                    continue
                assert view.page.goto(url).status == 200
                links = view.page.evaluate("[...document.querySelectorAll('a')].map((a) => a.href.baseVal ?? a.href)")
                links = {view.page.evaluate("(link) => new URL(link, location).href", link) for link in links}
                left |= {link.partition("#")[0] for link in links} - seen
            assert all(url.startswith(start) for url in seen)
            assert len(seen) > 20
            view.go()
            with view.page.expect_response("**/power/live") as answered:
                pass
            assert answered.value.ok
            assert view.messages == []


def test_with_a_password_any_host_will_do(tmp_path):
    """Caddy passes on the name that was asked for: without a password the page refuses it, with one it does not."""
    if not caddy_path().exists():
        pytest.fail("run: make servers", pytrace=False)
    port = free_port()
    with Program(tmp_path, page_settings(port)) as program, Caddy(tmp_path, f"reverse_proxy 127.0.0.1:{port}") as proxy:
        program.start("--simulate", "2000")
        assert get(proxy.port, "/", Host="nas.home").status == 421
        program.set(page_settings(port, password="x"))
        assert program.run("--restart").returncode == 0
        # Until it listens again, Caddy answers 502.
        wait_until(lambda: get(proxy.port, "/healthz", Host="nas.home").status == 200)
        assert get(proxy.port, "/", Host="nas.home").status == 401
        assert get(proxy.port, "/", Host="nas.home", Authorization="Basic bWU6eA==").status == 200


# --- The handbook


def test_pictures_can_be_taken_again(browser, tmp_path):
    """What `make pictures` takes is what the handbook shows: the same names, at the same widths, each below 80 kB."""
    pictures.take(browser, tmp_path)
    taken, shown = widths(tmp_path), widths(IMAGES)
    assert taken == shown
    assert all(path.stat().st_size < 80_000 for path in [*tmp_path.glob("*.png"), *IMAGES.glob("page_*.png")])


def widths(directory):
    found = {}
    for path in directory.glob("page_*.png"):
        with Image.open(path) as picture:
            found[path.name] = picture.width
    return found
