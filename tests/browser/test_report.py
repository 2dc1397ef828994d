"""The report as a reader meets it: in Chromium, with a pointer, a finger and a keyboard, light and dark."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from twotower.diagnosis import diagnose
from twotower.diagnosis.report import write_report

pytestmark = pytest.mark.browser

NASTY = "</script><img src=x onerror=\"console.error('run')\"> & 'quoted'"
CAUSE = {"feature": "brand", "missing": 1.0, "reason": "<b>empty</b> now, " * 12, "restored": {"verdict": "healthy"}}
INK = """(() => {
  const canvas = document.getElementById("scene");
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data;
  const found = {};
  for (let at = 0; at < pixels.length; at += 4)
    if (pixels[at + 3] > 200) {
      const name = pixels.slice(at, at + 3).map((value) => value >> 4).join();
      found[name] = (found[name] ?? 0) + 1;
    }
  return found;
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(60, 12)).astype("f4")
    titles = [f"session {number}" for number in range(60)]
    titles[0] = NASTY
    found = diagnose(vectors + 40)
    found.causes.append(CAUSE)
    path = tmp_path_factory.mktemp("report") / "report.html"
    columns = {
        "title": titles,
        "level": [100 * (1 + number % 3) for number in range(60)],
        "price": draw.normal(size=60),
    }
    write_report(path, found, vectors, columns=columns, title=NASTY)
    return path


def point(browser, row: int) -> tuple[float, float, float]:
    """Where the point of a flat PCA map is on the screen, after scrolling to it, and how near the next point is."""
    return tuple(
        browser.evaluate(
            """(() => {
              const scene = document.getElementById("scene");
              scene.scrollIntoView({ block: "center" });
              const { left, top, width, height } = scene.getBoundingClientRect();
              const places = JSON.parse(document.getElementById("data").textContent).views[0].flat;
              const scale = (Math.min(width, height) / 2 - 26) / 4000;
              const at = places.map(([x, y]) => [left + width / 2 + x * scale, top + height / 2 - y * scale]);
              const [x, y] = at[ROW];
              const gaps = at.map(([a, b]) => Math.hypot(a - x, b - y)).sort((a, b) => a - b);
              return [x, y, gaps[1]];
            })()""".replace("ROW", str(row))
        )
    )


def pick(browser, control: str, option: int | str) -> None:
    browser.evaluate(
        f"(() => {{ const node = document.getElementById('{control}'); node.value = '{option}';"
        "node.dispatchEvent(new Event('change')); })()"
    )


@pytest.mark.parametrize("dark", [False, True])
def test_opens_alone_without_errors_and_readable(browser, page, dark):
    browser.open(page, dark=dark)
    assert browser.problems == []
    assert browser.requests == [page.as_uri()]
    assert browser.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    contrast = browser.contrast()
    assert len(contrast) > 10
    assert {name: ratio for name, ratio in contrast.items() if ratio < 4.5} == {}


def test_marks_of_both_themes_stand_out_from_the_ground(browser, page):
    browser.open(page)
    names = [f"c{number}" for number in range(6)] + ["ramp0", "ramp1", "ramp2", "first", "second", "third", "other"]
    for theme in ("light", "dark"):
        browser.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        ground, *inks = browser.evaluate(
            f"{['card', *names]!r}.map((name) => getComputedStyle(document.documentElement)"
            ".getPropertyValue('--' + name).trim())"
        )
        weak = {ink: _contrast(ink, ground) for ink in inks if _contrast(ink, ground) < 3.0}
        assert weak == {}, theme


def _contrast(first: str, second: str) -> float:
    def light(text: str) -> float:
        parts = [int(text[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    bright, dim = sorted((light(first), light(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_titles_are_text_wherever_they_stand(browser, page):
    browser.open(page)
    x, y, _ = point(browser, 0)
    browser.mouse("mouseMoved", x, y)
    assert NASTY in browser.evaluate("document.getElementById('tip').textContent")
    assert NASTY in browser.evaluate("document.querySelector('.source').textContent")
    assert "<b>empty</b>" in browser.evaluate("document.getElementById('causes').parentElement.textContent")
    assert browser.evaluate("document.images.length") == 0
    assert browser.problems == []


def test_the_page_runs_no_script_but_its_own(browser, page):
    browser.open(page)
    browser.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    assert browser.evaluate("window.ran ?? 0") == 0
    assert "Content Security Policy" in "".join(browser.problems)


def test_hover_names_a_point_and_a_click_lists_its_neighbours(browser, page):
    browser.open(page)
    row = max(range(60), key=lambda number: point(browser, number)[2])
    x, y, gap = point(browser, row)
    assert gap > 12
    browser.mouse("mouseMoved", x + 2, y - 2)
    wanted = NASTY if row == 0 else f"session {row}"
    assert browser.evaluate("document.querySelector('#tip strong').textContent") == wanted
    browser.click(x, y)
    assert browser.evaluate("document.getElementById('chosen-name').textContent") == wanted
    near = browser.evaluate("[...document.querySelectorAll('#near li')].map((line) => line.textContent)")
    data = browser.evaluate("JSON.parse(document.getElementById('data').textContent)")
    assert near == [
        f"{data['names'][place]}{cosine:.4f}"
        for place, cosine in zip(data["neighbours"][row], data["cosines"][row], strict=True)
    ]
    browser.mouse("mouseMoved", 2, 2)
    assert browser.evaluate("document.getElementById('tip').hidden")


def test_search_finds_a_title_and_its_neighbours_lead_on(browser, page):
    browser.open(page)
    browser.evaluate(
        "(() => { const find = document.getElementById('find'); find.value = 'SESSION 41';"
        "find.dispatchEvent(new Event('input')); document.querySelector('#hits button').click(); })()"
    )
    assert browser.evaluate("document.getElementById('chosen-name').textContent") == "session 41"
    first = browser.evaluate("document.querySelector('#near button').textContent")
    browser.evaluate("document.querySelector('#near button').click()")
    assert browser.evaluate("document.getElementById('chosen-name').textContent") == first


def test_colour_projection_and_dimensions_change_the_picture(browser, page):
    browser.open(page)
    level = browser.evaluate(INK)
    pick(browser, "colour", 1)
    price = browser.evaluate(INK)
    assert len(price) > len(level) > 3
    assert "coloured by rank" in browser.evaluate("document.getElementById('legend').textContent")
    pick(browser, "view", 1)
    assert "perplexity" in browser.evaluate("document.getElementById('reading').textContent")
    moved = browser.evaluate(INK)
    pick(browser, "depth", "deep")
    deep = browser.evaluate(INK)
    assert deep != moved
    browser.evaluate("document.getElementById('scene').focus()")
    browser.send("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    turned = browser.evaluate(INK)
    assert turned != deep
    left, top = browser.evaluate(
        "(({ left, top }) => [left, top])(document.getElementById('scene').getBoundingClientRect())"
    )
    browser.mouse("mousePressed", left + 200, top + 200)
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=left + 290, y=top + 230, button="left", buttons=1)
    browser.mouse("mouseReleased", left + 290, top + 230)
    assert browser.evaluate(INK) != turned
    assert browser.problems == []


def test_the_theme_button_turns_page_and_map(browser, page):
    browser.open(page)
    before = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = browser.evaluate(INK)
    browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert browser.evaluate(INK) != ink
    assert browser.evaluate("document.getElementById('theme').getAttribute('aria-pressed')") == "true"


def test_a_phone_needs_no_sideways_scrolling_and_a_tap_names_a_point(browser, page):
    browser.open(page, width=390, height=844, touch=True)
    assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    assert (
        browser.evaluate(
            "Math.min(...[...document.querySelectorAll('svg text')].map((text) =>"
            "text.getBoundingClientRect().height).filter((height) => height > 0))"
        )
        > 9
    )
    row = max(range(60), key=lambda number: point(browser, number)[2])
    x, y, _ = point(browser, row)
    browser.tap(x, y)
    wanted = NASTY if row == 0 else f"session {row}"
    assert browser.evaluate("document.querySelector('#tip strong').textContent") == wanted
    assert browser.evaluate("document.getElementById('chosen-name').textContent") == wanted
    assert browser.problems == []


@pytest.mark.parametrize(("width", "least"), [(1280, 300), (390, 180)])
def test_the_reason_of_a_cause_has_room_and_its_feature_stays_in_sight(browser, page, width, least):
    browser.open(page, width=width)
    reason, feature, left = browser.evaluate(
        """(() => {
          const card = document.getElementById("causes").parentElement, scroll = card.querySelector(".scroll");
          scroll.scrollLeft = 10000;
          const first = card.querySelector("tbody td").getBoundingClientRect();
          const left = first.left - scroll.getBoundingClientRect().left;
          return [card.querySelector("td.words").clientWidth, first.width, left];
        })()"""
    )
    assert reason > least
    assert feature > 80
    assert abs(left) < 1


def test_everything_to_use_has_a_name_and_takes_the_keyboard(browser, page):
    browser.open(page)
    named = browser.evaluate(
        "[...document.querySelectorAll('button,select,input,canvas[tabindex],svg[role],[role=region]')].map((node) =>"
        "(node.getAttribute('aria-label') || node.closest('label')?.textContent || node.textContent).trim())"
    )
    assert len(named) > 10
    assert all(named)
    levels = browser.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((node) => Number(node.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 or before == 1 for before, after in pairwise(levels))
