"""The page in a real browser without a window: chromium, driven by playwright."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [name for name in ("gradio", "playwright") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"needs {' and '.join(MISSING)}: pip install {' '.join(MISSING)}"
    ),
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore"),  # those of gradio's own server
]
SHOTS = os.environ.get("MGIE_WEB_SHOTS")
"""Folder that pictures of the page are kept in, to be looked at."""
PATIENCE = 60_000
"""Milliseconds; a busy machine is slow."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        made = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def page(browser, server) -> Iterator[Any]:
    """The page, opened; what it asks of other hosts, and errors in it, fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(server.url)
    page.get_by_role("heading", name="mgie").wait_for()
    yield page
    context.close()
    elsewhere = [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert not elsewhere, elsewhere
    assert not wrong, wrong


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photos") / "beach.jpg"
    Image.fromarray(values).resize((480, 400), Image.Resampling.BICUBIC).save(path)
    return path


def shot(page: Any, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def bring(page: Any, photo: Path) -> None:
    page.locator("#picture input[type=file]").set_input_files(photo)
    page.locator("#history input").first.wait_for()


def edit(page: Any, words: str, turns: int) -> None:
    page.locator("#instruction textarea, #instruction input").fill(words)
    page.locator("#edit").click()
    until(page, turns)


def until(page: Any, turns: int) -> None:
    """So many turns are in the history."""
    page.wait_for_function("n => document.querySelectorAll('#history input').length === n", arg=turns)
    page.locator("#slider img").first.wait_for()


def open_part(page: Any, name: str) -> None:
    page.get_by_role("button", name=name).first.click()


def test_edit_go_on_undo_and_download(page, photo, tmp_path):
    shot(page, "1-opened")
    bring(page, photo)
    shot(page, "2-picture")
    edit(page, "make it dark <b>now</b>", 2)
    assert page.locator("#told .mgie-said").count() == 1
    assert "make it dark <b>now</b>" in page.locator("#told").inner_text()  # as text, not as a tag
    assert page.locator("#slider img").count() >= 2
    shot(page, "3-result")
    page.locator("#goon").click()
    page.wait_for_function("document.querySelectorAll('#history input')[1].checked")
    edit(page, "make it warmer", 3)
    assert (
        re.findall(r"^\d+: (>* ?>* ?)", page.locator("#history").inner_text(), flags=re.M)[-1].count(">") == 2
    )
    page.locator("#undo").click()
    page.wait_for_function("document.querySelectorAll('#history input')[0].checked")
    page.locator("#history input").nth(2).check()
    page.wait_for_function("document.querySelector('#told').innerText.includes('make it warmer')")
    shot(page, "4-history")
    for button, name in (("#download", "edit-3.jpg"), ("#bare", "edit-3-plain.jpg")):
        with page.expect_download() as download:
            page.locator(f"{button}, {button} a").last.click()
        path = tmp_path / name
        download.value.save_as(path)
        assert download.value.suggested_filename == name
        with Image.open(path) as saved:
            assert saved.size == (480, 400) and bool(saved.getexif()) == (button == "#download")


def test_the_slider_moves(page, photo):
    bring(page, photo)
    edit(page, "make it dark", 2)
    slider = page.locator("#slider")
    box = slider.locator("img").first.bounding_box()
    handle = slider.locator("[role=slider], .handle, .inner").first
    before = handle.bounding_box()
    page.mouse.move(before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, before["y"] + before["height"] / 2, steps=4)
    page.mouse.up()
    assert handle.bounding_box()["x"] < before["x"] - 20
    shot(page, "5-slider")


def test_a_mask_is_painted(page, photo, server):
    bring(page, photo)
    open_part(page, "Only here: paint a mask")
    page.locator("#draw").click()
    canvas = page.locator("#canvas canvas").first
    canvas.wait_for()
    page.wait_for_timeout(1500)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)
    shot(page, "6-mask")
    edit(page, "make it dark", 2)
    (history,) = server.service.histories._kept.values()
    before, after = (np.asarray(history.turns[number].picture).astype(int) for number in (1, 2))
    changed = np.abs(before - after).max(axis=2) > 0
    assert 0 < changed.mean() < 0.6
    assert history.turns[2].facts["outside_change"] == 0


def test_cancel(page, photo):
    bring(page, photo)
    open_part(page, "Seed, steps")
    page.get_by_label("Steps").fill("1000")
    page.locator("#instruction textarea, #instruction input").fill("make it dark")
    page.locator("#edit").click()
    page.locator("#told progress[value]").wait_for()
    page.locator("#told img").wait_for()
    shot(page, "7-painting")
    page.locator("#cancel").click()
    page.locator("#told [role=alert]").wait_for()
    assert page.locator("#told").inner_text().strip() == "cancelled."


def test_errors_are_sentences_in_the_page(page, photo, tmp_path):
    page.locator("#edit").click()
    alert = page.locator("#told [role=alert]")
    alert.wait_for()
    assert "the instruction is empty" in alert.inner_text()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:500])
    page.locator("#picture input[type=file]").set_input_files(broken)
    page.wait_for_function("document.querySelector('#told').innerText.includes('decoded') || "
                           "document.querySelector('#told').innerText.includes('truncated')")  # fmt: skip
    assert "/" not in alert.inner_text()
    shot(page, "8-error")


def test_a_telephone(browser, server, photo):
    context = browser.new_context(viewport={"width": 375, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server.url)
    page.get_by_role("heading", name="mgie").wait_for()
    bring(page, photo)
    edit(page, "make it dark", 2)
    shot(page, "9-telephone")
    wide = page.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert wide <= 375, "it has to be moved sideways"


def test_two_tabs_are_two_pages(page, photo, server):
    bring(page, photo)
    other = page.context.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(server.url)
    other.locator(".mgie-example").first.click()
    other.locator("#history input").first.wait_for()
    for tab, words in ((page, "make it dark"), (other, "make it warmer")):
        edit(tab, words, 2)
        assert words in tab.locator("#history").inner_text()
    first, second = server.service.histories._kept.values()
    assert first.turns[1].picture.size == (480, 400) != second.turns[1].picture.size


def test_who_closes_the_page_ends_the_edit(page, photo, server):
    bring(page, photo)
    open_part(page, "Seed, steps")
    page.get_by_label("Steps").fill("1000")
    page.get_by_label("number input for Pictures").fill("8")
    page.locator("#instruction textarea, #instruction input").fill("make it dark")
    page.locator("#edit").click()
    page.locator("#told progress[value]").wait_for()
    page.close()
    until = time.monotonic() + 60
    while server.service.worker._now is not None or not server.service.histories._left:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not server.service.edits


def test_what_is_too_large_is_told(page, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (900, 1000, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "bytes.png")
    Image.new("L", (2000, 1500)).save(tmp_path / "pixels.png")
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "pixels.png")
    page.wait_for_function("document.querySelector('#told').innerText.includes('3.0 megapixels')")
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "bytes.png")
    page.get_by_text(re.compile("maximum.*size|too large|larger than", flags=re.I)).first.wait_for()
    shot(page, "11-large")


def test_the_keyboard_alone(page):
    def tab_to(what: str, key: str = "Tab") -> None:
        for _ in range(60):
            page.keyboard.press(key)
            if page.evaluate(f"!!document.activeElement.closest('{what}')"):
                return
        raise AssertionError(f"{what} cannot be reached")

    def chosen(number: int) -> None:
        page.wait_for_function(
            "n => document.querySelectorAll('#history input')[n].checked && "
            "document.activeElement === document.querySelectorAll('#history input')[n]", arg=number
        )  # fmt: skip

    tab_to(".mgie-example")
    page.keyboard.press("Enter")
    page.locator("#history input").first.wait_for()
    tab_to("#instruction", "Shift+Tab")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("make it dark")
    page.keyboard.press("Enter")
    until(page, 2)
    tab_to("#goon")
    shot(page, "10-keyboard")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#history input')[1].checked")
    tab_to("#edit", "Shift+Tab")
    page.keyboard.press("Enter")
    until(page, 3)
    tab_to("#history")  # its first entry, which is not the one that is chosen
    for number in (1, 2):
        page.keyboard.press("ArrowDown")
        chosen(number)
    page.wait_for_function("document.querySelector('#told').innerText.includes('make it dark')")
    page.keyboard.press("ArrowUp")
    chosen(1)
    page.keyboard.press("ArrowUp")
    chosen(0)
    page.wait_for_function("document.querySelector('#told').innerText.includes('appears here')")
    shot(page, "12-keyboard-history")
