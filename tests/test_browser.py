"""The built book in a real browser, read from its files: phone and desktop, keyboard, search, accessibility.

Needs Chromium: ``CHROMIUM=/path`` or one on the search path. `make book` installs Debian's where there is none; without
any, these tests skip and say so.
"""

import os
import shutil
from importlib import resources
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.book

ROOT = Path(__file__).resolve().parent.parent
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: install it, or name it with CHROMIUM=/path/to/chromium")
    with sync_api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[PHONE, DESK], ids=["390", "1440"])
def sized(request, browser):
    page = browser.new_page(viewport=request.param, color_scheme="light")
    yield page
    page.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport=DESK)
    yield page
    page.close()


def pages():
    """Every page of the book that a reader can reach."""
    found = sorted(path for folder in ("book", "notebooks") for path in (HTML / folder).rglob("*.html"))
    assert found, f"no page under {HTML}; run make book"
    return found


def opened(page, path, fragment=""):
    page.goto(path.as_uri() + fragment, wait_until="load")
    page.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise)")
    page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => true) : true")
    return page


OVERFLOW = """() => {
  const wide = document.documentElement.clientWidth, root = document.scrollingElement;
  if (root.scrollWidth <= wide + 1) return [];
  return [...document.querySelectorAll('.bd-article *')].filter(e => e.getBoundingClientRect().right > wide + 1)
    .slice(0, 3).map(e => e.outerHTML.slice(0, 120)).concat('page is ' + root.scrollWidth + ' px wide');
}"""


CODE = """() => [...document.querySelectorAll('div.cell_input pre, div.highlight pre')]
  .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1)
  .map(e => 'wide code: ' + e.innerText.slice(0, 80))"""
FAULTS = "resultTypes: ['violations']"
COLOURS, REST = "runOnly: ['color-contrast']", "rules: {'color-contrast': {enabled: false}}"
THEMES = {"light": f"{{{FAULTS}}}", "dark": f"{{{FAULTS}, {COLOURS}}}"}
"""What is asked in each theme: only the colours differ."""
SHARED = {390: {"light": f"{{{FAULTS}, {REST}}}", "dark": THEMES["dark"]}, 1440: {"light": THEMES["light"]}}
"""What is asked at each width. Measuring colours takes most of the time, and a page has the same ones at both widths:
light ones are measured on a desk, dark ones on a phone. What only one width shows is the same on all pages, so every
tenth page is asked everything at both."""


def test_every_page_is_quiet_fits_the_screen_and_is_accessible_in_both_themes(sized):
    """Code fits its column on a desk and on paper; on a phone it scrolls in its box."""
    axe = (resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    faults, said = [], []
    sized.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    sized.on("pageerror", lambda error: said.append(str(error)))
    sized.on("requestfailed", lambda request: said.append(f"could not load {request.url}"))
    sized.on("request", lambda request: said.append(f"asks for {request.url}") if request.url[:4] == "http" else None)
    for number, path in enumerate(pages()):
        said.clear()
        opened(sized, path)
        here = said + sized.evaluate(OVERFLOW)
        here += sized.eval_on_selector_all(
            "img", "all => all.filter(e => !e.alt).map(e => 'no alt: ' + e.outerHTML.slice(0, 99))"
        )
        sized.evaluate(axe)
        sized.add_style_tag(content="* { transition: none !important }")  # no colour is measured on its way
        found = []
        for theme, asked in (SHARED[sized.viewport_size["width"]] if number % 10 else THEMES).items():
            sized.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)  # as its button does
            found += sized.evaluate(f"axe.run(document, {asked})")["violations"]
        sized.evaluate("document.documentElement.dataset.theme = 'light'")
        if sized.viewport_size == DESK:
            here += sized.evaluate(CODE)
        sized.emulate_media(media="print")
        here += sized.evaluate(CODE)
        sized.emulate_media(media="screen")
        here += [
            f"{fault['impact']} {fault['id']}, {len(fault['nodes'])} times, as in {fault['nodes'][0]['html'][:150]} "
            f"({fault['nodes'][0]['failureSummary'][:300]})"
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        faults += [f"{path.name}: {text}" for text in here]
    assert not faults, "\n".join(faults)


CARDS = """() => [...document.querySelectorAll('.bd-article table.stack')].filter(table => table.offsetParent)
  .map(table => ({
    wide: table.parentElement.scrollWidth > table.parentElement.clientWidth + 1,
    says: getComputedStyle(table.tBodies[0].rows[0].cells[1], '::before').content,
    head: table.tHead.offsetHeight, room: table.getBoundingClientRect().width / table.parentElement.clientWidth,
  }))"""
SCROLLS = """() => [...document.querySelectorAll('.bd-article table')].filter(table => table.offsetParent)
  .map(table => [table, table.parentElement])
  .filter(([table, box]) => Math.max(box.scrollWidth, table.getBoundingClientRect().width) > box.clientWidth + 1)
  .map(([table, box]) => `${box.scrollWidth} in ${box.clientWidth} px: ${table.innerText.slice(0, 90)}`)"""
"""Tables of which a reader sees a part, until it is scrolled."""


def test_wide_tables_are_cards_on_a_phone_and_as_wide_as_the_text_on_a_desk(sized):
    """On a desk no table at all is scrolled; on a phone none that was made cards."""
    seen, scrolled = 0, []
    for path in pages():
        if "<table" not in (text := path.read_text(encoding="utf-8")):
            continue
        opened(sized, path)
        if sized.viewport_size == DESK:
            scrolled += [f"{path.name}: {table}" for table in sized.evaluate(SCROLLS)]
        for table in sized.evaluate(CARDS) if 'class="table stack' in text else []:
            seen += 1
            if sized.viewport_size == PHONE:
                here = not table["wide"] and table["head"] <= 1 and len(table["says"]) > 3
            else:
                here = table["says"] == "none" and table["room"] > 0.99
            assert here, f"{path.name}: {table}"
    assert seen > 20
    assert not scrolled, "\n".join(scrolled)


def test_a_slider_prints_all_its_pictures_with_what_they_show(page):
    opened(page, HTML / "notebooks" / "03_zerogla_objective.html")
    page.emulate_media(media="print")
    figure = page.locator("figure:has(> ol[data-print])").first
    images, lines = figure.locator("> img"), figure.locator("ol[data-print] li")
    assert images.count() == lines.count() > 2
    assert all(image.is_visible() for image in images.all()) and lines.last.is_visible()
    assert not figure.locator("input").is_visible()
    page.emulate_media(media="screen")
    assert sum(image.is_visible() for image in images.all()) == 1 and not lines.first.is_visible()


def test_formulas_are_set(page):
    opened(page, HTML / "notebooks" / "03_zerogla_objective.html")
    assert page.locator("mjx-container svg").count() > 5
    assert page.locator("mjx-merror").count() == 0


def test_sliders_move_with_the_keyboard_and_say_what_they_show(page):
    seen = 0
    for path in pages():
        if 'type="range"' not in path.read_text(encoding="utf-8"):
            continue
        opened(page, path)
        for figure in page.locator("figure:has(input[type=range]):has([data-status])").all():
            slider, status = figure.locator("input[type=range]").first, figure.locator("[data-status]").first
            slider.focus()
            page.keyboard.press("Home")
            first = status.inner_text()
            page.keyboard.press("ArrowRight")
            second = status.inner_text()
            shown = figure.locator("img:visible, div[data-frame]:visible").first
            assert first and second and first != second, f"{path.name}: the slider says {first!r}, then {second!r}"
            told = shown.get_attribute("alt") or shown.get_attribute("data-frame")  # of a picture, of a text
            assert slider.get_attribute("aria-valuetext") == told
            seen += 1
    assert seen >= 5


def test_a_defence_is_chosen_and_its_strength_moved_with_the_keyboard(page):
    opened(page, HTML / "notebooks" / "choose_a_defence.html")
    figure = page.locator("figure:has(select):has(input[type=range])").first
    slider, told = figure.locator("input[type=range]"), figure.locator("[data-frame] img:visible")
    said = []
    for control in (figure.locator("select"), figure.locator("input[type=radio]:checked").first, slider):
        control.focus()
        page.keyboard.press("ArrowDown" if control is not slider else "ArrowRight")
        assert told.count() == 1, "one frame is shown at a time"
        said.append(told.get_attribute("alt"))
        assert slider.get_attribute("aria-valuetext") == said[-1]
    assert len(set(said)) == 3, "every control changes the picture"


def test_search_finds_zerogla(page):
    page.goto((HTML / "search.html").as_uri() + "?q=ZeroGLA")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    found = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.getAttribute('href'))")
    assert any("03_zerogla_objective" in link for link in found)


def test_next_and_previous_walk_the_whole_book(page):
    start = HTML / "book" / "welcome.html"
    page.goto(start.as_uri())
    walked = [page.url.split("#")[0]]
    while page.locator("a.right-next").count():
        page.goto(page.evaluate("document.querySelector('a.right-next').href"))
        here = page.url.split("#")[0]
        assert here not in walked, f"next leads in a circle at {here}"
        back = page.evaluate("(document.querySelector('a.left-prev') || {}).href")
        assert back.split("#")[0] == walked[-1], f"previous of {here} is {back}"
        walked.append(here)
    missed = {path.as_uri() for path in pages()} - set(walked)
    assert not missed, f"not reached by next: {sorted(missed)}"


def test_pages_are_light():
    """Half of the pages under 1 MB, none over 3 MB: the page and the pictures that it shows."""
    weights = {}
    for path in pages():
        text = path.read_text(encoding="utf-8")
        images = [image for image in (HTML / "_images").glob("*") if f"_images/{image.name}" in text]
        weights[path.name] = path.stat().st_size + sum(image.stat().st_size for image in images)
    ordered = sorted(weights.values())
    assert ordered[len(ordered) // 2] < 1_000_000
    assert ordered[-1] < 3_000_000, max(weights, key=weights.get)
