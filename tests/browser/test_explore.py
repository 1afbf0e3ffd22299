"""The page of `aaconv explore`, used as a person would in a real browser."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from aaconv.explain.look import Network
from aaconv.explain.samples import samples

from ..explain.networks import exact, image, saved
from ..explain.test_shelf import SVG, bomb, encoded, turned
from .conftest import watch
from .reading import LAYER, choose, click, close, named, numbers, ready, strongest

GRID = 8


@pytest.fixture(scope="module")
def looks():
    """The first network's looks at its samples."""
    net = Network.load("digits")
    return [net.look(picture) for picture in samples(net.card).values()]


@pytest.fixture
def page(tab, address):
    tab.goto(address)
    ready(tab)
    return tab


def send(page, button, files):
    """Files through one of the buttons that take them."""
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name=button).click()
    chosen.value.set_files(files)


def send_image(page, content, name="mine.png", kind="image/png"):
    send(page, "Your image", {"name": name, "mimeType": kind, "buffer": content})


def pick(page, which, text):
    """An option of one of Gradio's lists."""
    page.locator(f"#{which} input").click()
    page.get_by_role("option", name=text, exact=True).click()


def test_numbers_behind_the_picture_are_the_attention(page, looks):
    for (x, y), query in {(0.3, 0.6): 4 * GRID + 2, (0.95, 0.05): GRID - 1}.items():
        click(page, x, y)
        expected = exact(looks[0], LAYER, query)
        choose(page, "Head", "mean of the heads")
        assert close(numbers(page), expected)
        for head in range(4):
            choose(page, "Head", f"head {head + 1}")
            assert close(numbers(page), expected[head])
            row, column, percent = strongest(page.locator(".status").inner_text())
            assert percent == pytest.approx(100 * float(expected[head].max()), abs=0.1)
            assert float(expected[head][row - 1, column - 1]) == pytest.approx(float(expected[head].max()), rel=0.01)
    choose(page, "Layer", "blocks.2.conv1.attention (8x8)")
    assert close(numbers(page), exact(looks[0], "blocks.2.conv1.attention", GRID - 1)[3])


def test_prediction_is_shown(page, looks):
    answer = looks[0].answers[0]
    assert page.locator(".said span").first.inner_text() == f"{answer.label} {100 * answer.probability:.1f}%"


def test_content_or_position_alone(page, looks):
    click(page, 0.3, 0.6)
    for part in ("content", "position"):
        choose(page, "Logits", f"{part} only")
        page.wait_for_function(f"document.querySelector('.aa-viewer').dataset.part === '{part}'")
        assert close(numbers(page), exact(looks[0], LAYER, 4 * GRID + 2, part))


def test_dragging_ends_where_the_pointer_does(page, looks):
    box = page.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for step in range(1, 40):
        page.mouse.move(box["x"] + step * box["width"] / 45, box["y"] + step * box["height"] / 60)
    page.mouse.up()
    column, row = int(39 / 45 * GRID), int(39 / 60 * GRID)
    page.wait_for_function(
        "Math.abs(Number(document.querySelector('.aa-viewer').dataset.point.split(' ')[0]) - 39/45) < .01"
    )
    assert close(numbers(page), exact(looks[0], LAYER, row * GRID + column))


def test_keyboard_alone(page, looks):
    click(page, 0.5, 0.5)
    page.locator(".stage").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    expected = exact(looks[0], LAYER, 3 * GRID + 5)
    page.wait_for_function("document.querySelector('.stage').getAttribute('aria-label').includes('row 4, column 6')")
    assert close(numbers(page), expected)
    for _ in range(20):
        page.locator(".stage").press("ArrowUp")
    page.wait_for_function("document.querySelector('.stage').getAttribute('aria-label').includes('row 1, column 6')")
    page.locator(".thumb").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".thumb").nth(1).get_attribute("aria-pressed") == "true"
    assert "head 2" in page.locator(".status").inner_text()


def test_everything_has_a_name(page):
    assert "from row" in page.locator(".stage").get_attribute("aria-label")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('.aa-viewer button, .aa-viewer select, .aa-viewer input')].filter(n =>"
        " !(n.getAttribute('aria-label') || n.textContent.trim() && n.tagName === 'BUTTON' || n.closest('label')))"
        ".length"
    )
    assert unnamed == 0
    assert page.locator("#samples img").count() == 8
    assert all(node.get_attribute("alt") for node in page.locator("#samples img").all())


def test_views_and_strength(page):
    def orange():
        return page.locator(".stage").evaluate(
            "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let s = 0;"
            " for (let i = 0; i < d.length; i += 4) s += d[i] - d[i + 2]; return s; }"
        )

    strong = orange()
    page.locator("input[type=range]").fill("0.2")
    assert 0 < orange() < strong / 2
    assert page.locator(".thumb").count() == 4
    choose(page, "View", "model view: all layers")
    assert page.locator(".thumb").count() == 8
    page.locator(".thumb").first.click()
    assert page.locator(".status").inner_text().startswith("blocks.2.conv1.attention, head 1")


def test_samples_networks_and_comparison(page, looks):
    page.locator("#samples button:has(img)").nth(3).click()
    named(page, "canvas 4")
    click(page, 0.5, 0.5)
    assert close(numbers(page), exact(looks[3], LAYER, 4 * GRID + 4))
    pick(page, "other", "detect_digits")
    ready(page, 2)
    assert page.locator(".network h3").all_inner_texts() == ["digits", "detect_digits"]
    click(page, 0.3, 0.3, at=1)  # one point for both
    assert page.locator(".stage").nth(0).get_attribute("aria-label").split(": ")[0].endswith("row 3, column 3 of 8x8")
    assert "of 4x4" in page.locator(".stage").nth(1).get_attribute("aria-label")
    assert close(numbers(page), exact(looks[3], LAYER, 2 * GRID + 2))
    pick(page, "network", "detect_digits")
    ready(page, 1)
    assert page.locator(".network h3").all_inner_texts() == ["detect_digits"]
    page.wait_for_function("document.querySelector('#samples img').alt.startsWith('scene')")


def test_picture_is_downloaded(page):
    with page.expect_download() as started:
        page.get_by_role("button", name="Download picture").click()
    assert started.value.suggested_filename == "digits-canvas_1_different.png"
    picture = Image.open(started.value.path())
    assert picture.format == "PNG"
    assert picture.width > 480
    assert picture.height > 600
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_own_image_is_looked_at_and_not_kept(page, uploads):
    mine = image(50, 50)
    send_image(page, encoded(mine))
    named(page, "mine")
    click(page, 0.1, 0.9)
    look = Network.load("digits").look(mine)
    assert close(numbers(page), exact(look, LAYER, 7 * GRID))
    assert not [path for path in Path(uploads).rglob("*mine*") if path.is_file()]


@pytest.mark.parametrize(
    "content, name, message",
    [
        (lambda: b"no image", "text.png", "not an image that can be read"),
        (lambda: encoded(image(400, 400))[:20_000], "cut.png", "cut.png"),
        (bomb, "bomb.png", "10000x10000 pixels"),
        (lambda: SVG, "drawing.svg", "not an image that can be read"),
        (lambda: bytes(21_000_000), "large.png", "has more than 20 MB"),
    ],
    ids=["text", "cut", "bomb", "svg", "large"],
)
def test_hostile_uploads_are_refused_with_a_message(tab, address, uploads, content, name, message):
    tab.goto(address)
    ready(tab)
    send_image(tab, content(), name)
    tab.get_by_text(message).first.wait_for(timeout=20_000)
    assert tab.locator(".stage").get_attribute("aria-label").startswith("canvas 1")
    click(tab, 0.7, 0.7)  # still answers
    assert not [path for path in Path(uploads).rglob(f"*{Path(name).stem}*") if path.is_file()]


@pytest.mark.parametrize(
    "content, name, kind",
    [
        (turned, "turned.jpg", "image/jpeg"),
        (lambda: encoded(image(mode="CMYK"), "JPEG"), "print.jpg", "image/jpeg"),
        (lambda: encoded(image(mode="RGBA")), "clear.png", "image/png"),
        (lambda: encoded(image(), save_all=True, append_images=[image(seed=1)]), "moving.png", "image/png"),
        (
            lambda: encoded(Image.fromarray(torch.arange(2400).view(40, 60).mul(27).numpy().astype("uint16"))),
            "deep.png",
            "image/png",
        ),
    ],
    ids=["turned", "cmyk", "transparent", "animated", "16 bit"],
)
def test_odd_uploads_are_shown(page, content, name, kind):
    send_image(page, content(), name, kind)
    stem = Path(name).stem
    named(page, stem)
    click(page, 0.4, 0.4)
    look = Network.load("digits").look(Image.open(io.BytesIO(content())))
    assert close(numbers(page), exact(look, LAYER, 3 * GRID + 3))


def test_checkpoints_are_added_for_this_page_alone(page, browser, address, tmp_path, uploads):
    path = saved(tmp_path / "private.safetensors")
    send(page, "Add a checkpoint", path)
    page.wait_for_function("document.querySelector('.network h3').textContent === 'private'")
    assert not [found for found in Path(uploads).rglob("*private*") if found.is_file()]
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    send(page, "Add a checkpoint", tmp_path / "bad.safetensors")
    page.get_by_text("bad.safetensors is no safetensors checkpoint").first.wait_for()
    assert page.locator(".network h3").inner_text() == "private"
    context = browser.new_context()
    other = context.new_page()
    other.goto(address)
    ready(other)
    other.locator("#network input").click()
    options = other.locator("ul[role=listbox] [role=option]")
    options.first.wait_for()
    assert [text.split()[-1] for text in options.all_inner_texts()] == ["digits", "detect_digits"]
    context.close()


def test_two_sessions_at_once(page, browser, address, looks):
    context = browser.new_context()
    other = context.new_page()
    wrong = watch(other)
    other.goto(address)
    ready(other)
    other.locator("#samples button:has(img)").nth(5).click()
    named(other, "canvas 6")
    for step in range(4):
        x = (step + 0.5) / 8
        click(page, x, 0.1)
        click(other, 0.9, x)
        assert close(numbers(page), exact(looks[0], LAYER, step))
        assert close(numbers(other), exact(looks[5], LAYER, step * GRID + 7))
    context.close()
    assert not wrong


def test_narrow_screen(browser, address):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    phone = context.new_page()
    wrong = watch(phone)
    phone.goto(address)
    ready(phone)
    assert phone.evaluate("document.scrollingElement.scrollWidth") <= 360
    stage = phone.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box["width"] <= 360
    phone.touchscreen.tap(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"])
    phone.wait_for_function("Number(document.querySelector('.aa-viewer').dataset.point.split(' ')[0]) > 0.85")
    context.close()
    assert not wrong


def test_webcam(page):
    page.get_by_role("button", name="Webcam").first.click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#webcam video')?.readyState >= 2")
    page.get_by_role("button", name="capture photo").click(timeout=15_000)
    page.wait_for_function(
        "document.querySelector('.stage')?.ariaLabel?.startsWith('canvas') === false", timeout=20_000
    )
    click(page, 0.2, 0.2)
