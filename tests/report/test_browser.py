"""The page in a real browser."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segfix.files import list_entries, pair_entries
from segfix.formats import LABEL_SUFFIXES, OffsetMap, write_offset_map
from segfix.formats.class_names import read_class_names
from segfix.formats.offset_maps import WRONG_LABEL
from segfix.geometry.suspicion import find_suspicion
from segfix.report.audit_page import write_audit
from segfix.report.page import write_report
from segfix.tasks.audit import Audited
from tests.contrast import measure_contrast

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
PHONE = {"width": 375, "height": 740}

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium or google-chrome: apt-get install chromium"
)


@pytest.fixture(scope="module")
def url(many_scenes: Path) -> str:
    """A report of five hundred images."""
    entries = {
        kind: list_entries(many_scenes / kind, LABEL_SUFFIXES, what="files")
        for kind in ("images", "labels", "preds", "refined")
    }
    out = many_scenes / "report.html"
    summary = write_report(
        out,
        {
            name: pair_entries(entries["labels"], entries[kind])
            for name, kind in (("preds", "preds"), ("refined", "refined"), ("same", "preds"))
        },
        made={"made": "today by segfix", "command": "segfix report"},
        photographs=entries["images"],
        class_names=read_class_names(many_scenes / "classes.txt"),
        workers=2,
    )
    assert summary["failed"] == []
    return out.as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The report, opened; nothing may be logged or asked of the network."""
    context = chromium.new_context(**getattr(request, "param", {}))
    page = context.new_page()
    logged: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("dialog", lambda dialog: logged.append(dialog.message))
    page.on("request", lambda asked: logged.append(asked.url[:200]))
    page.goto(url)
    yield page
    context.close()
    assert [text for text in logged if text != url and not text.startswith("data:")] == []


def picture(locator: Any) -> np.ndarray[Any, Any]:
    return np.array(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def column(table: Any, number: int) -> list[str]:
    cells = table.locator(f"tbody tr > :nth-child({number + 1})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_the_slider_moves_by_mouse_and_by_key(page: Any) -> None:
    stage = page.locator(".stage").first
    slider, clip = stage.locator("input"), "e => getComputedStyle(e).clipPath"
    slider.hover()  # scrolls there, and waits until the layout stands still
    box = stage.bounding_box()
    clips, others, pictures = [], [], []
    for share in (0.002, 0.5, 0.998):
        slider.click(position={"x": share * box["width"], "y": box["height"] / 2})
        clips.append(stage.locator(".labels.before").evaluate(clip))
        others.append(stage.locator(".labels.after").first.evaluate(clip))
        pictures.append(picture(stage))
        handle = stage.locator(".handle").bounding_box()
        assert handle["x"] + handle["width"] / 2 == pytest.approx(
            box["x"] + share * box["width"], abs=0.01 * box["width"]
        )
    assert len(set(clips)) == len(set(others)) == 3
    after, both, before = (found[found.shape[0] * 3 // 4 :] for found in pictures)
    middle = both.shape[1] // 2
    left, right = slice(8, middle - 8), slice(middle + 8, -8)
    assert np.abs(before - after).max() > 50
    assert np.abs(both[:, left] - before[:, left]).max() < 8
    assert np.abs(both[:, right] - after[:, right]).max() < 8
    slider.focus()
    value = float(slider.input_value())
    page.keyboard.press("ArrowLeft")
    assert float(slider.input_value()) < value
    assert stage.locator(".labels.before").evaluate(clip) != clips[-1]
    page.keyboard.press("Home")
    assert slider.input_value() == "0"
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) > 0
    assert slider.get_attribute("aria-valuetext") is not None
    assert slider.get_attribute("aria-label")


def test_dragging_moves_the_handle_along(page: Any) -> None:
    stage = page.locator(".stage").nth(1)
    stage.locator("input").hover()
    box = stage.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, y, steps=4)
    page.mouse.up()
    assert float(stage.locator("input").input_value()) == pytest.approx(20, abs=2)


def test_each_view_shows_another_picture(page: Any) -> None:
    example = page.locator(".example").first
    example.scroll_into_view_if_needed()
    shown = []
    for _ in range(5):
        shown.append(picture(example.locator(".stage")))
        if len(shown) == 1:
            example.locator("input[type=radio]").first.focus()
        page.keyboard.press("ArrowRight")
    for number, one in enumerate(shown):
        for other in shown[number + 1 :]:
            assert one.shape == other.shape
            assert np.abs(one - other).max() > 50
    page.locator(".all button", has_text="Truth").click()
    checked = page.locator(".views :checked")
    assert set(checked.evaluate_all("all => all.map(e => e.value)")) == {"truth"}


@pytest.mark.parametrize("label", ["Classes", "Images"])
def test_tables_sort_by_click_and_by_key(page: Any, label: str) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    table = page.locator(f"[aria-label={label}] table")
    number = 3 if label == "Classes" else 1
    head = table.locator("thead th").nth(number)
    names = set(column(table, 0))
    # Pictures that load below what was opened move the table under a pointer.
    click = "button => button.click()"
    for way in ("descending", "ascending"):
        if way == "descending":
            head.locator("button").evaluate(click)
        else:
            head.locator("button").focus()
            page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == way
        texts = column(table, number)
        known = [float(text) for text in texts if text != "–"]
        assert known == sorted(known, reverse=way == "descending")
        assert texts[len(known) :] == ["–"] * (len(texts) - len(known))
        assert len(texts) - len(known) == (label == "Classes")
    first = table.locator("thead th").first
    first.locator("button").evaluate(click)
    assert first.get_attribute("aria-sort") == "ascending"
    assert head.get_attribute("aria-sort") is None
    assert set(column(table, 0)) == names


LAYER = ".stage .layer.labels"
SEEN = "all => all.filter(e => e.checkVisibility()).length"


@pytest.mark.parametrize("page", [{"viewport": {"width": 1300, "height": 900}}], indirect=True)
def test_the_first_picture_is_seen_at_once_and_how_the_page_was_made_below(page: Any) -> None:
    box = page.locator(".lead .stage").bounding_box()
    assert box["y"] + box["height"] / 2 < 900
    assert "today by segfix" in page.locator("header").inner_text()
    assert "segfix report" in page.locator("#origin + dl").inner_text()


@pytest.mark.parametrize("page", [{"viewport": PHONE}], indirect=True)
def test_a_phone_shows_some_of_the_first_picture_at_once(page: Any) -> None:
    assert page.locator(".lead .stage").bounding_box()["y"] < PHONE["height"] - 100


def test_zoom_shows_a_part_nearer_and_the_slider_stays_with_the_pointer(page: Any) -> None:
    example = page.locator(".lead .example")
    stage, button = example.locator(".stage"), example.locator(".zoom")
    whole = picture(stage)
    sizes = [example.locator(".pan").first.bounding_box()["width"]]
    for label in ("×4", "×8", "×16", ""):
        button.click()
        assert button.inner_text() == f"Zoom {label}".strip()
        sizes.append(example.locator(".pan").first.bounding_box()["width"])
        if label == "×8":
            assert np.abs(picture(stage) - whole).max() > 50
            box = stage.bounding_box()
            stage.locator("input").click(position={"x": box["width"] / 4, "y": 20})
            handle = stage.locator(".handle").bounding_box()
            assert handle["x"] - box["x"] == pytest.approx(box["width"] / 4, abs=6)
            assert handle["width"] < 4, "the handle isn't enlarged"
    assert [size / sizes[0] for size in sizes] == pytest.approx([1, 4, 8, 16, 1])
    stage.dblclick(position={"x": 30, "y": 30})
    assert button.inner_text() == "Zoom ×2"
    before = example.get_attribute("style")
    page.mouse.wheel(60, 60)
    page.wait_for_function(
        "old => document.querySelector('.lead .example').style.cssText != old", arg=before
    )


def test_classes_are_hidden_and_shown_by_their_legend(page: Any) -> None:
    example = page.locator(".lead .example")
    fill, button = example.locator(".fill").first, example.locator("[data-class='3'] button")
    clear = """async image => {
      await image.decode();
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      const pen = canvas.getContext("2d");
      pen.drawImage(image, 0, 0);
      const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
      return data.filter((value, place) => place % 4 == 3 && !value).length;
    }"""
    source = fill.get_attribute("src")
    assert fill.evaluate(clear) == 0
    button.click()
    changed = "old => document.querySelector('.lead .fill').src != old"
    page.wait_for_function(changed, arg=source)
    assert fill.evaluate(clear) >= 256, "a block of 16×16 pixels at least"
    pressed = page.locator("[data-class='3'] button")
    assert set(pressed.evaluate_all("all => all.map(e => e.ariaPressed)")) == {"false"}
    button.click()
    page.wait_for_function("old => document.querySelector('.lead .fill').src == old", arg=source)


def test_any_set_stands_beside_the_first_and_all_stand_side_by_side(page: Any) -> None:
    example = page.locator(".lead .example")
    assert example.locator(LAYER).evaluate_all(SEEN) == 2
    words = example.locator("p").first.inner_text()
    page.locator("[name=set]").select_option("2")
    assert example.locator(LAYER).evaluate_all(SEEN) == 2
    assert example.locator("p:visible").first.inner_text() != words
    assert example.locator(".tags.after:visible").inner_text() == "same"
    example.locator(".views label", has_text="Side by side").click()
    assert example.locator(".pane").count() == 4
    assert example.locator(".pane .tag").all_inner_texts() == [
        *("preds", "refined", "same", "ground truth")
    ]
    assert not example.locator(".stage").is_visible()


def test_images_are_filtered_by_class_and_outlines_and_opacity_settled(page: Any) -> None:
    form = page.locator("form.all")
    opacity = "getComputedStyle(document.querySelector('.fill')).opacity"
    assert page.evaluate(opacity) == "0.45"
    form.locator("[name=opacity]").fill("0.8")
    assert page.evaluate(opacity) == "0.8"
    assert page.locator(".lead .layer.labels.before .lines").is_visible()
    form.locator("[name=lines]").uncheck()
    assert not page.locator(".lead .layer.labels.before .lines").is_visible()
    some = page.locator(".gallery .example").first.get_attribute("data-classes").split()
    page.evaluate("document.querySelector('.gallery .example').dataset.classes = '7'")
    form.locator("[name=class]").select_option(some[0])
    assert not page.locator(".gallery .example").first.is_visible()
    assert page.locator(".gallery .example:visible").count() == 16
    form.locator("[name=class]").select_option("")
    assert page.locator(".gallery .example:visible").count() == 17


def test_on_paper_all_is_unfolded_and_nothing_to_press(page: Any) -> None:
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".views:visible, form.all:visible, .files:visible").count() == 0
    assert page.locator("[aria-label=Images] tbody tr").first.is_visible()


def test_numbers_sort_as_numbers(page: Any) -> None:
    table = page.locator("[aria-label=Classes] table")
    table.locator("thead button").nth(1).click()
    shares = [float(text) for text in column(table, 1)]
    assert len({len(str(int(share))) for share in shares}) > 1
    assert shares == sorted(shares, reverse=True)


def test_hostile_names_are_text(page: Any) -> None:
    assert page.locator("[onerror], [onmouseover], h4 b, img[src='x']").count() == 0
    assert "<img src=x onerror=alert(1)>" in column(page.locator("[aria-label=Classes] table"), 0)


@pytest.mark.parametrize("page", [{"viewport": PHONE}], indirect=True)
def test_a_phone_scrolls_down_only(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("document.body.scrollWidth") <= PHONE["width"]
    box = page.locator("[aria-label=Classes]")
    assert box.evaluate("e => e.scrollWidth > e.clientWidth")


@pytest.mark.parametrize(
    ("page", "dark"),
    [({"color_scheme": "dark"}, True), ({"color_scheme": "light"}, False)],
    indirect=["page"],
)
def test_texts_stand_out_in_dark_and_in_light(page: Any, dark: bool) -> None:
    texts = "h1, h2, h3, h4, p, td, th, dt, dd, li, summary, span, small, svg text"
    found = measure_contrast(page, texts)
    assert (found[0] < 0.05) == dark
    assert found[1] >= 4.5


def test_five_hundred_images_keep_the_page_small(page: Any) -> None:
    assert page.locator("[aria-label=Images] tbody tr").count() == 500
    assert page.locator(".example").count() == 18
    assert page.locator("img").count() <= 18 * 15
    assert page.evaluate("document.querySelectorAll('*').length") < 9000
    broken = "all => all.filter(e => !e.complete || !e.naturalWidth).length"
    page.evaluate("Promise.all([...document.images].map(e => e.decode()))")
    assert page.locator("img").evaluate_all(broken) == 0


@pytest.fixture(scope="module")
def audit_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of an audit of two label maps, one of them with a hostile name."""
    folder = tmp_path_factory.mktemp("audit")
    rng = np.random.default_rng(0)
    ranked = []
    for name, number in (("0<b onmouseover=alert(2)>", 1), ("clean", 0)):
        image, mask, offsets = (
            folder / f"{kind}{number}.png" for kind in ("image", "labels", "offsets")
        )
        Image.fromarray(rng.integers(0, 255, (200, 300, 3), np.uint8)).save(image)
        labels = np.ones((200, 300), np.uint8)
        labels[:, 150:] = 2
        Image.fromarray(labels).save(mask)
        wrong = np.zeros((200, 300))
        wrong[50:150, 140:150] = 0.9 * number
        sectors = np.full((200, 300), 4, np.uint8)
        offset_map = OffsetMap.encode(wrong > 0, sectors, wrong, confidence=WRONG_LABEL)
        write_offset_map(offsets, offset_map)
        ranked.append(Audited(name, image, mask, offsets, find_suspicion(labels, wrong)))
    assert write_audit(folder, ranked, sources={"LABELS": "<b>"}, failed=["<i>x</i>: no."]) == []
    return (folder / "audit.html").as_uri()


@pytest.mark.parametrize("width", [1300, PHONE["width"]])
def test_the_audit_page_shows_what_is_suspected(chromium: Any, audit_url: str, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    logged: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda asked: logged.append(asked.url[:200]))
    page.goto(audit_url)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".example").count() == 2
    assert page.locator("[onmouseover], .failures i, dd b").count() == 0
    example = page.locator(".example").first
    shown = []
    for view in ("both", "labels", "suspected", "photograph"):
        example.locator(f"[value={view}]").check(force=True)
        shown.append(picture(example.locator(".stage")))
    for number, one in enumerate(shown):
        for other in shown[number + 1 :]:
            assert np.abs(one - other).max() > 50
    page.locator(".all button", has_text="Photo").click()
    checked = page.locator(".views :checked").evaluate_all("all => all.map(e => e.value)")
    assert set(checked) == {"photograph"}
    page.locator("[aria-label='Label maps'] thead button").nth(1).click()
    assert column(page.locator("[aria-label='Label maps']"), 1)[-1] == "0.000"
    context.close()
    assert [text for text in logged if text != audit_url and not text.startswith("data:")] == []
