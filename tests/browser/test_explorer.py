"""The explorer as a person meets it: in Chromium, with a pointer, a finger and a keyboard, light and dark."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

pytestmark = pytest.mark.browser

NASTY = "</script><img src=x onerror=\"console.error('run')\"><script>console.error('run')</script> & 'quoted'"
TOKEN = "a-token-for-tests-only"
LONG = "A" * 90
ITEMS = 40
SECONDS = 20
STAR = """(() => {
  const canvas = document.getElementById("map");
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  copy.drawImage(canvas, 0, 0);
  const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data;
  let found = 0; // of the colour of the user's star, #1a6e37
  for (let at = 0; at < pixels.length; at += 4)
    if (pixels[at] === 0x1a && pixels[at + 1] === 0x6e && pixels[at + 2] === 0x37) found += 1;
  return found;
})()"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle of vectors and one of item lists, over 40 films of which two have titles that want to do harm."""
    import twotower

    folder = tmp_path_factory.mktemp("explorer")
    titles = [f"Film {number}" for number in range(ITEMS)]
    titles[0], titles[1] = NASTY, LONG
    events = [(f"u{user}", (user * 7 + step * (1 + user % 3)) % ITEMS, step) for user in range(60) for step in range(9)]
    log = {"user": [user for user, _, _ in events], "item": [f"i{item}" for _, item, _ in events]}
    log["time"] = [1_700_000_000 + 3600 * step for _, _, step in events]
    films = {"item": [f"i{number}" for number in range(ITEMS)], "title": titles}
    films["genre"] = [f"Adventure, romance, science fiction, war, western and {number % 3}" for number in range(ITEMS)]
    films["year"] = [str(1980 + number) for number in range(ITEMS)]
    films["stars"] = [number % 14 for number in range(ITEMS)]
    films["tags"] = [["cosy", "it's new"][: 1 + number % 2] for number in range(ITEMS)]
    films["adult"] = [number % 5 == 0 for number in range(ITEMS)]
    data = twotower.Dataset.from_frames(log, items=films, name="films")
    twotower.train("two_tower", data, to=folder / "towers", epochs=2)
    twotower.train("item_lists", data, to=folder / "lists")
    return folder / "towers", folder / "lists"


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., str]]:
    """Serve bundles on this machine until the tests of the module are over; the page's address."""
    import uvicorn

    from twotower.serving.http.app import create_app
    from twotower.serving.http.explorer.shelf import Shelf
    from twotower.serving.http.swap import Loader, Slot

    servers: list[tuple[Any, threading.Thread]] = []

    def started(folder: Path, beside: Path | None = None, token: str | None = None) -> str:
        loader = Loader(allow_collapsed=True)
        slot = Slot(loader.load(folder, None), loader)
        app = create_app(slot, token=token, explorer=Shelf(slot, None if beside is None else loader.load(beside, None)))
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{listening.getsockname()[1]}/explorer/"

    yield started
    for server, thread in servers:
        server.should_exit = True
        thread.join(SECONDS)


@pytest.fixture(scope="module")
def page(serve: Callable[..., str], bundles: tuple[Path, Path]) -> str:
    """The page over both bundles."""
    return serve(*bundles)


def wait(browser: Any, script: str) -> None:
    """Until an expression in the page is true."""
    end = time.monotonic() + SECONDS
    while not browser.evaluate(f"Boolean({script})"):
        assert time.monotonic() < end, (script, browser.evaluate("document.body.innerText"))
        time.sleep(0.02)


def settle(browser: Any) -> None:
    """Until no answer is awaited."""
    wait(browser, "document.querySelector('.hits button') && !document.querySelector('[aria-busy=\"true\"]')")


def opened(browser: Any, page: str, **settings: Any) -> None:
    browser.open(page, **settings)
    settle(browser)


def click(browser: Any, selector: str) -> None:
    """Press the middle of an element with the pointer, after scrolling to it."""
    place = browser.evaluate(
        "(() => { const node = document.querySelector(SELECTOR); node.scrollIntoView({ block: 'center' });"
        "const { left, top, width, height } = node.getBoundingClientRect();"
        "return [left + width / 2, top + height / 2]; })()".replace("SELECTOR", repr(selector))
    )
    browser.click(*place)


def press(browser: Any, key: str) -> None:
    text = {"text": "\r"} if key == "Enter" else {}
    codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38, "ArrowRight": 39, "ArrowLeft": 37}
    for kind in ("keyDown", "keyUp"):
        more = text if kind == "keyDown" else {}
        browser.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **more)


def search(browser: Any, letters: str, first: str) -> None:
    browser.evaluate("document.getElementById('find').focus()")
    browser.evaluate("document.getElementById('find').select()")
    browser.send("Input.insertText", text=letters)
    wait(browser, f"document.querySelector('.hits .name')?.textContent === {json.dumps(first)}")


def names(browser: Any, place: str) -> list[str]:
    return browser.evaluate(f"[...document.querySelectorAll('{place} .name')].map((node) => node.textContent)")


def focused(browser: Any) -> str:
    node = "document.activeElement"
    return browser.evaluate(f"{node}.getAttribute('aria-label') || {node}.innerText || {node}.id")


@pytest.mark.parametrize("dark", [False, True])
def test_search_add_recommend_and_why_in_both_bundles(browser: Any, page: str, dark: bool) -> None:
    opened(browser, page, dark=dark)
    for number in (7, 8):
        search(browser, f"film {number}", f"Film {number}")
        click(browser, ".hits button")
    wait(browser, "document.querySelectorAll('.taken li').length === 2")
    wait(browser, "document.querySelectorAll('.list.second .found li').length > 0")
    settle(browser)
    assert names(browser, ".taken") == ["Film 7", "Film 8"]
    first, second = names(browser, ".list.first .found"), names(browser, ".list.second .found")
    assert len(first) == 10
    assert second
    assert not {"Film 7", "Film 8"} & {*first, *second}
    assert "ms in the service" in browser.evaluate("document.querySelector('.list.first .took').textContent")

    for which, list_ in (("first", first), ("second", second)):
        click(browser, f".list.{which} .found li:nth-child(1) .row")
        wait(browser, "document.querySelectorAll('.causes li').length > 0")
        assert list_[0] in browser.evaluate("document.getElementById('why-head').textContent")
        assert {*names(browser, ".causes")} <= {"Film 7", "Film 8"}
    assert "exact" in browser.evaluate("document.querySelector('.why').textContent")

    click(browser, ".list.first .found li:nth-child(2) .slim")
    wait(browser, "document.querySelectorAll('.taken li').length === 3")
    settle(browser)
    assert names(browser, ".taken")[2] == first[1]
    assert browser.problems == []
    assert {address.split("/explorer/")[0] for address in browser.requests} == {page.removesuffix("/explorer/")}


def test_a_known_user_comes_with_what_was_seen_and_stands_on_the_map(browser: Any, page: str) -> None:
    opened(browser, page)
    browser.evaluate("document.getElementById('user').focus()")
    browser.send("Input.insertText", text="u7")
    press(browser, "Enter")
    wait(browser, "document.querySelectorAll('.list.first .found li').length > 0")
    settle(browser)
    assert "9 items seen" in browser.evaluate("document.querySelector('.known').textContent")
    assert "answered by user" in browser.evaluate("document.querySelector('.list.first').textContent")
    assert browser.evaluate(STAR) > 20
    assert browser.problems == []


def test_titles_are_text_wherever_they_stand(browser: Any, page: str) -> None:
    opened(browser, page)
    search(browser, "img src", NASTY)
    click(browser, ".hits button")
    search(browser, LONG, LONG)
    click(browser, ".hits button")
    wait(browser, "document.querySelectorAll('.list.first .found li').length > 0")
    settle(browser)
    click(browser, ".list.first .found li:nth-child(1) .row")
    wait(browser, "document.querySelectorAll('.causes li').length > 0")
    assert names(browser, ".taken") == [NASTY, LONG]
    assert NASTY in names(browser, ".causes")
    assert browser.evaluate("document.images.length + document.querySelectorAll('main script').length") == 0
    assert browser.problems == []


def test_the_page_runs_no_script_but_its_own(browser: Any, page: str) -> None:
    opened(browser, page)
    for script in (
        "document.querySelector('h2').innerHTML = '<b>in</b>'",
        "document.body.append(Object.assign(document.createElement('script'), { text: 'window.ran = 1' }))",
        "setTimeout('window.ran = 2')",
        "document.body.insertAdjacentHTML('beforeend', '<b>in</b>')",
    ):
        browser.evaluate(f"(() => {{ try {{ {script} }} catch {{ }} }})()")
    assert browser.evaluate("new Promise((done) => setTimeout(() => done(window.ran ?? 0), 50))") == 0
    assert browser.evaluate("document.querySelectorAll('b').length") == 0
    assert browser.problems


def test_everything_is_reached_by_the_keyboard(browser: Any, page: str) -> None:
    opened(browser, page)
    search(browser, "film 1", "Film 10")
    press(browser, "ArrowDown")
    press(browser, "ArrowDown")
    press(browser, "Enter")
    press(browser, "ArrowUp")
    press(browser, "ArrowUp")
    assert browser.evaluate("document.activeElement.id") == "find"
    press(browser, "Enter")
    wait(browser, "document.querySelectorAll('.taken li').length === 2")
    press(browser, "Escape")
    wait(browser, "document.getElementById('find').value === ''")
    wait(browser, "document.querySelectorAll('.list.second .found li').length > 0")
    settle(browser)

    reached = set()
    for _ in range(120):
        press(browser, "Tab")
        if browser.evaluate("document.activeElement === document.body"):
            break
        assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", focused(browser)
        reached.add(focused(browser).split("\n")[0])
    first = names(browser, ".list.first .found")[0]
    assert {"Clear", "Take", first, f"Add {first} to the history", "Map of bundle B"} <= reached
    assert any(name.startswith("Map of 40 items") for name in reached)

    browser.evaluate("document.querySelector('.list.first .row').focus()")
    press(browser, "Enter")
    wait(browser, "document.querySelectorAll('.causes li').length > 0")
    browser.evaluate("document.getElementById('close').focus()")
    press(browser, "Escape")
    wait(browser, "!document.querySelector('.causes')")
    assert first in focused(browser)


def test_arrow_keys_walk_over_the_map_and_enter_adds(browser: Any, page: str) -> None:
    opened(browser, page)
    browser.evaluate("document.getElementById('map').focus()")
    visited = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"):
        press(browser, key)
        visited.append(browser.evaluate("document.querySelector('.tip .name').textContent"))
    assert len(set(visited)) > 1
    press(browser, "Enter")
    wait(browser, "document.querySelectorAll('.taken li').length === 1")
    assert names(browser, ".taken") == visited[-1:]
    press(browser, "Escape")
    wait(browser, "document.querySelector('.tip').hidden")


def test_the_pointer_names_a_point_of_the_map_and_a_click_adds_it(browser: Any, page: str) -> None:
    opened(browser, page)
    left, top, width, height = browser.evaluate(
        "(() => { const map = document.getElementById('map'); map.scrollIntoView({ block: 'center' });"
        "const box = map.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; })()"
    )
    drawn = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(NAMED))))"
    named = drawn.replace("NAMED", "document.querySelector('.tip:not([hidden]) .name')?.textContent")
    for step in range(400):
        # whole numbers: a click's place is cut to them, a move's is not
        x, y = round(left + width * (step % 20 + 0.5) / 20), round(top + height * (step // 20 + 0.5) / 20)
        browser.mouse("mouseMoved", x, y)
        if title := browser.evaluate(named):
            break
    browser.click(x, y)
    wait(browser, "document.querySelectorAll('.taken li').length === 1")
    assert names(browser, ".taken") == [title]
    browser.mouse("mouseMoved", 2, 2)
    assert browser.problems == []


def test_the_focus_stays_at_its_rank_when_an_item_leaves_the_list(browser: Any, page: str) -> None:
    opened(browser, page)
    click(browser, ".hits button")
    wait(browser, "document.querySelectorAll('.list.first .found li').length === 10")
    settle(browser)
    before = names(browser, ".list.first .found")
    browser.evaluate("document.querySelector('.list.first .found li:nth-child(3) .slim').focus()")
    press(browser, "Enter")
    wait(browser, "document.querySelectorAll('.taken li').length === 2")
    settle(browser)
    after = names(browser, ".list.first .found")
    assert before[2] not in after
    assert focused(browser) == f"Add {after[2]} to the history"
    browser.evaluate("document.getElementById('clear').focus()")
    press(browser, "Enter")
    wait(browser, "document.activeElement.id === 'find'")


@pytest.mark.parametrize("width", [320, 390, 820, 1440])
def test_no_width_scrolls_sideways_or_cuts_a_title_off(browser: Any, page: str, width: int) -> None:
    opened(browser, page, width=width, height=844, touch=width < 500)
    search(browser, LONG, LONG)
    click(browser, ".hits button")
    search(browser, "img src", NASTY)
    click(browser, ".hits button")
    wait(browser, "document.querySelectorAll('.list.second .found li').length > 0")
    settle(browser)
    click(browser, ".list.first .found li:nth-child(1) .row")
    wait(browser, "document.querySelectorAll('.causes li').length > 0")
    wide = browser.evaluate(
        "[...document.querySelectorAll('main *')].filter((node) => node.getBoundingClientRect().right > innerWidth + 1)"
        ".map((node) => node.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    cut = browser.evaluate(
        "[...document.querySelectorAll('.name')].filter((node) => node.scrollWidth > node.clientWidth + 1).length"
    )
    assert cut == 0
    assert browser.problems == []


def test_a_finger_adds_and_asks_why(browser: Any, page: str) -> None:
    opened(browser, page, width=390, height=844, touch=True)

    def tap(selector: str) -> None:
        browser.tap(
            *browser.evaluate(
                f"(() => {{ const node = document.querySelector('{selector}');"
                "node.scrollIntoView({ block: 'center' });"
                "const { left, top, width, height } = node.getBoundingClientRect();"
                "return [left + width / 2, top + height / 2]; })()"
            )
        )

    tap(".hits button")
    wait(browser, "document.querySelectorAll('.list.first .found li').length === 10")
    settle(browser)
    tap(".list.first .row")
    wait(browser, "document.querySelectorAll('.causes li').length > 0")
    assert browser.evaluate(
        "(() => { const { top, bottom } = document.querySelector('.why').getBoundingClientRect();"
        "return top < innerHeight && bottom > 0; })()"
    )


def test_one_bundle_alone_fills_the_page(browser: Any, serve: Callable[..., str], bundles: tuple[Path, Path]) -> None:
    opened(browser, serve(bundles[1]))
    click(browser, ".hits button")
    wait(browser, "document.querySelectorAll('.found li').length > 0")
    settle(browser)
    assert browser.evaluate("document.querySelectorAll('.list').length") == 1
    assert browser.evaluate("document.querySelectorAll('.choice, .also, #map').length") == 0
    assert "no item vectors" in browser.evaluate("document.querySelector('.map').textContent")
    assert browser.problems == []


def test_a_token_is_asked_for_and_kept_for_the_tab(
    browser: Any, serve: Callable[..., str], bundles: tuple[Path, Path]
) -> None:
    page = serve(bundles[0], token=TOKEN)
    browser.open(page)
    for given, then in (
        ("wrong", "document.querySelector('.problem')"),
        (TOKEN, "document.querySelector('.hits button')"),
    ):
        wait(browser, "document.getElementById('token')")
        browser.evaluate("document.getElementById('token').focus()")
        browser.evaluate("document.getElementById('token').select()")
        browser.send("Input.insertText", text=given)
        press(browser, "Enter")
        wait(browser, then)
    browser.problems.clear()
    opened(browser, page)
    assert browser.evaluate("document.getElementById('token')") is None
    assert browser.problems == []


def test_a_refusal_is_told_where_it_belongs(browser: Any, page: str) -> None:
    opened(browser, page)
    browser.evaluate("document.getElementById('user').focus()")
    browser.send("Input.insertText", text="nobody")
    press(browser, "Enter")
    wait(browser, "document.querySelector('.history .problem')")
    assert "unknown user" in browser.evaluate("document.querySelector('.history .problem').textContent")
    assert browser.evaluate("document.querySelectorAll('.found li').length") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_from_the_ground(browser: Any, page: str, dark: bool) -> None:
    opened(browser, page, dark=dark)
    click(browser, ".hits button")
    wait(browser, "document.querySelectorAll('.list.first .found li').length === 10")
    settle(browser)
    click(browser, ".list.first .row")
    wait(browser, "document.querySelectorAll('.causes li').length > 0")
    contrast = browser.contrast()
    assert len(contrast) > 6
    assert {name: ratio for name, ratio in contrast.items() if ratio < 4.5} == {}


def write_filter(browser: Any, text: str) -> None:
    browser.evaluate("document.getElementById('filter').focus()")
    browser.evaluate("document.getElementById('filter').select()")
    browser.send("Input.insertText", text=text)


def says(browser: Any, words: str) -> None:
    wait(browser, f"document.getElementById('filter-says').textContent.includes({json.dumps(words)})")
    settle(browser)


def test_a_filter_holds_for_both_lists_and_a_wrong_one_shows_the_place_and_changes_nothing(
    browser: Any, page: str
) -> None:
    opened(browser, page)
    click(browser, ".hits button")
    wait(browser, "document.querySelectorAll('.list.first .found li').length === 10")
    write_filter(browser, "stars >= 3 and stars < 5")
    says(browser, "6 of 40 items pass.")
    wait(browser, "document.querySelectorAll('.list.first .found li').length < 7")
    settle(browser)
    stars = {3, 4}
    for which in ("first", "second"):
        shown = names(browser, f".list.{which} .found")
        assert shown
        assert {int(name.removeprefix("Film ")) % 14 for name in shown} <= stars
    kept = names(browser, ".list.first .found")

    write_filter(browser, "stars >= 3 and yeer = '1999'")
    says(browser, "filter, character 16: items have no column 'yeer'; did you mean 'year'?")
    assert browser.evaluate("document.querySelector('.place mark').textContent") == "yeer"
    assert browser.evaluate("document.getElementById('filter').getAttribute('aria-invalid')") == "true"
    assert names(browser, ".list.first .found") == kept
    press(browser, "Enter")
    field = "document.getElementById('filter')"
    assert browser.evaluate(f"[{field}.selectionStart, {field}.selectionEnd]") == [15, 19]
    write_filter(browser, "stars >=")
    says(browser, "filter, character 9:")
    press(browser, "Escape")
    says(browser, "All items may come back.")
    wait(browser, "document.querySelectorAll('.list.first .found li').length === 10")
    assert {text for text in browser.problems if "400" not in text} == set(), "the browser itself logs a status of 400"


def test_columns_of_few_values_are_chosen_by_pointer_and_keyboard_and_written_as_a_filter(
    browser: Any, page: str
) -> None:
    opened(browser, page)
    click(browser, ".hits button")
    click(browser, ".columns summary")
    wait(browser, "document.querySelector('.columns').open")
    legends = browser.evaluate("[...document.querySelectorAll('.column legend')].map((node) => node.textContent)")
    assert legends == ["genre", "stars", "tags", "adult"]
    assert "id, title, year" in browser.evaluate("document.querySelector('.columns').textContent")
    chosen = "[...document.querySelectorAll('.column button')].find((node) => node.textContent === "
    for label in ("it's new", "false"):
        browser.evaluate(f"{chosen}{json.dumps(label)}).focus()")
        press(browser, "Enter")
    browser.evaluate("document.querySelector('[aria-label=\"stars, to\"]').focus()")
    browser.send("Input.insertText", text="4")
    says(browser, "of 40 items pass.")
    asked = "document.querySelector('.asked').textContent"
    wait(browser, f"{asked} === \"stars <= 4 and tags contains 'it''s new' and adult = false\"")
    says(browser, "5 of 40 items pass.")
    write_filter(browser, "year < '1990' or year > '2010'")
    wait(browser, f"{asked}.startsWith(\"(year < '1990' or year > '2010') and stars <= 4\")")
    says(browser, "3 of 40 items pass.")
    settle(browser)
    wait(browser, "document.querySelectorAll('.list.first .found li').length === 3")
    assert set(names(browser, ".list.first .found")) == {LONG, "Film 3", "Film 31"}
    click(browser, "#unfilter")
    says(browser, "All items may come back.")
    assert browser.evaluate("document.activeElement.id") == "filter"
    assert browser.problems == []


@pytest.mark.parametrize("width", [320, 390, 820, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_the_filter_fits_every_width_and_stands_out_from_the_ground(
    browser: Any, page: str, width: int, dark: bool
) -> None:
    opened(browser, page, width=width, height=844, touch=width < 500, dark=dark)
    browser.evaluate("document.querySelector('.columns').open = true")
    browser.evaluate("document.querySelector('.column button').click()")
    write_filter(browser, "year = " + "x" * 60)
    wait(browser, "document.querySelector('.place mark')")
    settle(browser)
    wide = browser.evaluate(
        "[...document.querySelectorAll('.filter *')]"
        ".filter((node) => node.getBoundingClientRect().right > innerWidth + 1)"
        ".map((node) => node.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert {name: ratio for name, ratio in browser.contrast().items() if ratio < 4.5} == {}
