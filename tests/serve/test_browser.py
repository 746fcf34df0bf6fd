"""The page of `segfix serve` in a real browser, and what a user's other pages may do with it."""

from __future__ import annotations

import http.server
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.contrast import measure_contrast
from tests.report.test_browser import ARGUMENTS, BROWSER, PHONE, picture
from tests.serve.conftest import Service

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium or google-chrome: apt-get install chromium"
)

DROP = """([target, files]) => {
  const list = new DataTransfer();
  for (const [name, type, bytes] of files)
    list.items.add(new File([new Uint8Array(bytes)], name, {type}));
  for (const kind of ["dragover", "drop"])
    document.querySelector(target).dispatchEvent(
      new DragEvent(kind, {dataTransfer: list, bubbles: true, cancelable: true}));
}"""
"""Drops files on what a selector finds."""

BUTTON, RESULT, ALERT = "form button", "section", "[role=alert]"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(
    chromium: Any, work: Path, service: Service, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """The page, opened; nothing may be asked of anybody else, or be wrong."""
    own = f"http://127.0.0.1:{service.port}/"
    context = chromium.new_context(**getattr(request, "param", {}))
    page = context.new_page()
    logged: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda asked: logged.append(asked.url[:200]))
    page.goto(own)
    # Not wait_for_function, which evaluates a string: the policy of the page forbids that.
    page.wait_for_selector("#status:not(:empty)")
    yield page
    context.close()
    allowed = (own, f"blob:{own}", "data:,", "Failed to load resource: ")
    assert [text for text in logged if not text.startswith(allowed)] == []


def dropped(path: Path, name: str = "") -> tuple[str, str, list[int]]:
    media = "image/jpeg" if name.endswith(".jpg") else "image/png" if not name else ""
    return name or path.name, media, list(path.read_bytes())


def fix(page: Any, *, how: str = "auto") -> None:
    """Send what is there and wait for the result."""
    page.select_option("#rule", how)
    page.click(BUTTON)
    page.wait_for_selector(f"{RESULT}:not([hidden]), {ALERT}:not([hidden])")
    assert page.locator(ALERT).is_hidden(), page.inner_text(ALERT)


def test_files_dropped_come_back_fixed(page: Any, tmp_path: Path) -> None:
    page.evaluate(DROP, [".drop:has([name=image])", [dropped(Path("images/a.png"), "p.jpg")]])
    page.evaluate(DROP, ["h1", [dropped(Path("preds/a.png"))]])
    assert page.locator(".drop .name").all_inner_texts() == ["p.jpg", "a.png"]
    fix(page)
    assert page.inner_text("#told") == "5.00 % of the pixels changed."
    with page.expect_download() as waiting:
        page.click("a[download]")
    assert waiting.value.suggested_filename == "a_fixed.png"
    waiting.value.save_as(tmp_path / "got.png")
    fixed = np.array(Image.open(tmp_path / "got.png"))
    assert np.array_equal(fixed, np.array(Image.open("labels/a.png")))


def test_of_two_dropped_at_once_the_jpeg_is_the_photograph(page: Any) -> None:
    files = [dropped(Path("preds/a.png")), dropped(Path("images/a.png"), "p.jpg")]
    page.evaluate(DROP, ["body", files])
    assert page.locator(".drop .name").all_inner_texts() == ["p.jpg", "a.png"]
    page.evaluate(DROP, ["body", [*files, *files]])
    assert page.inner_text(ALERT) == "Drop one photograph and one mask."


def test_the_step_is_chosen(page: Any) -> None:
    page.set_input_files("[name=image]", "images/a.png")
    page.set_input_files("[name=prediction]", "preds/a.png")
    assert page.locator("[name=scale]").is_hidden()
    page.select_option("#rule", "number")
    page.fill("[name=scale]", "0")
    fix(page, how="number")
    assert page.inner_text("#told") == "0.00 % of the pixels changed."
    page.fill("[name=scale]", "2")
    fix(page, how="number")
    assert page.inner_text("#told") == "5.00 % of the pixels changed."


def test_the_slider_moves_by_mouse_and_by_key(page: Any) -> None:
    page.set_input_files("[name=image]", "images/a.png")
    page.set_input_files("[name=prediction]", "preds/a.png")
    fix(page)
    stage = page.locator(".stage")
    slider, clip = stage.locator("input"), "e => getComputedStyle(e).clipPath"
    slider.hover()
    page.wait_for_function("scroll => scroll === window.scrollY", arg=page.evaluate("scrollY"))
    box = stage.bounding_box()
    clips, pictures = [], []
    for share in (0.01, 0.5, 0.99):
        slider.click(position={"x": share * box["width"], "y": box["height"] / 2})
        clips.append(stage.locator(".labels.before").evaluate(clip))
        pictures.append(picture(stage))
    assert len(set(clips)) == 3
    assert np.abs(pictures[0] - pictures[2]).max() > 50
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert float(slider.input_value()) == pytest.approx(20, abs=2)
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) == pytest.approx(20.5, abs=2)
    page.keyboard.press("Home")
    assert slider.input_value() == "0"
    shown = [picture(stage)]
    page.locator("[name=view]").first.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
        shown.append(picture(stage))
    assert all(np.abs(one - other).max() > 50 for one, other in itertools.pairwise(shown))


@pytest.mark.parametrize("name", ["bad.png", "bad.npy", "<img src=x onerror=alert(1)>.png"])
def test_a_bad_file_is_told_on_the_page(page: Any, name: str) -> None:
    page.set_input_files("[name=image]", "images/a.png")
    bad = {"name": name, "mimeType": "", "buffer": b"?"}
    page.set_input_files("[name=prediction]", bad)
    page.click(BUTTON)
    page.wait_for_selector(f"{ALERT}:not([hidden])")
    assert name.strip("<").rpartition(".")[2] in page.inner_text(ALERT)
    assert page.locator(RESULT).is_hidden()
    assert page.locator("[onerror]").count() == 0
    page.set_input_files("[name=prediction]", "preds/a.png")
    fix(page)


def test_a_server_that_has_ended_is_told_on_the_page(page: Any) -> None:
    page.set_input_files("[name=image]", "images/a.png")
    page.set_input_files("[name=prediction]", "preds/a.png")
    page.route("**/fix", lambda route: route.abort())
    page.click(BUTTON)
    page.wait_for_selector(f"{ALERT}:not([hidden])")
    assert "is segfix serve still running?" in page.inner_text(ALERT)
    page.unroute("**/fix")
    fix(page)


def test_the_form_works_without_scripts(chromium: Any, work: Path, service: Service) -> None:
    context = chromium.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(f"http://localhost:{service.port}/")
    plain.set_input_files("[name=image]", "images/a.png")
    plain.set_input_files("[name=prediction]", "preds/a.png")
    with plain.expect_download() as waiting:
        plain.click(BUTTON)
    assert waiting.value.suggested_filename == "a_fixed.png"
    waiting.value.cancel()
    context.close()


TEXTS = "h1, h2, h3, p, label, span, a, button, summary, li, dt, dd, pre, select, input"


@pytest.mark.parametrize(
    ("page", "dark"),
    [
        ({"color_scheme": "dark", "viewport": PHONE}, True),
        ({"color_scheme": "light", "viewport": PHONE}, False),
    ],
    indirect=["page"],
)
def test_a_phone_scrolls_down_only_and_texts_stand_out(
    page: Any, service: Service, dark: bool
) -> None:
    page.click("summary")
    name = f"{'a_name_that_is_long_' * 4}.png"
    page.set_input_files("[name=image]", "images/a.png")
    content = Path("preds/a.png").read_bytes()
    mask = {"name": name, "mimeType": "image/png", "buffer": content}
    page.set_input_files("[name=prediction]", mask)
    fix(page)
    for path in ("", "docs"):
        if path:
            page.goto(f"http://127.0.0.1:{service.port}/{path}")
            page.wait_for_selector("dl")
            assert page.locator("h2").all_inner_texts() == ["POST /fix", "GET /status"]
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        ground, least = measure_contrast(page, TEXTS, visible=True)
        assert (ground < 0.05) == dark
        assert least >= 4.5


def test_pages_of_others_can_t_use_the_service(
    chromium: Any, work: Path, start: Callable[..., Service]
) -> None:
    """One from another port, which sends a form and tries to read, to frame and to load."""
    service = start()
    served = threading.Event()

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!DOCTYPE html><link rel=icon href='data:,'><p>mine")
            served.set()

        def log_message(self, *_: object) -> None:
            pass

    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=other.serve_forever).start()
    try:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        assert served.is_set()
        statuses = []
        page.on("response", lambda answer: statuses.append(answer.status))
        outcome = page.evaluate(
            """async url => {
              const form = new FormData();
              form.append("image", new File(["?"], "a.png"));
              const told = [];
              for (const mode of ["cors", "no-cors"])
                told.push(await fetch(url + "fix", {method: "POST", body: form, mode})
                  .then(answer => answer.type, () => "refused"));
              told.push(await fetch(url + "status").then(() => "read", () => "refused"));
              return told;
            }""",
            f"http://127.0.0.1:{service.port}/",
        )
        assert outcome[0] == outcome[2] == "refused"
        assert outcome[1] in ("opaque", "refused")
        assert set(statuses) <= {403}
        page.set_content(f"<iframe src='http://127.0.0.1:{service.port}/'></iframe>")
        page.wait_for_timeout(300)
        assert page.frames[1].locator("form").count() == 0
        context.close()
    finally:
        other.shutdown()
        other.server_close()


def test_pictures_and_legend_are_those_of_the_result(page: Any) -> None:
    page.set_input_files("[name=image]", "images/a.png")
    page.set_input_files("[name=prediction]", "preds/a.png")
    fix(page)
    sizes = page.locator(".stage img").evaluate_all("all => all.map(e => e.naturalWidth)")
    assert sizes == [40] * 4
    rows = page.locator(".legend li")
    assert rows.all_inner_texts() == ["1", "2"]
    colours = rows.locator("i").evaluate_all("all => all.map(e => e.style.background)")
    assert len(set(colours)) == 2
    assert all(colour.startswith("rgb(") for colour in colours)
