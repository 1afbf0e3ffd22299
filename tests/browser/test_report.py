"""The report of `aaconv explain` in a real browser, from a file, without any server."""

import pytest

from aaconv.explain.explain import explain_files
from aaconv.explain.look import Network
from aaconv.explain.samples import samples

from ..explain.networks import exact
from .conftest import watch
from .reading import LAYER, choose, click, close, numbers, ready

GRID = 8


@pytest.fixture(scope="module")
def report(browser, tmp_path_factory):
    return explain_files(["digits", "digits_no_positions"], [], tmp_path_factory.mktemp("report"))


@pytest.fixture
def page(tab, report):
    tab.goto(report.as_uri())
    ready(tab, 2)
    return tab


def test_clicks_show_the_attention(page):
    pictures = list(samples(Network.load("digits").card).values())
    looks = [Network.load(name).look(pictures[2]) for name in ("digits", "digits_no_positions")]
    choose(page, "Image", "canvas 3, different")
    for (x, y), query in {(0.05, 0.95): 7 * GRID, (0.8, 0.3): 2 * GRID + 6}.items():
        click(page, x, y)
        for at, look in enumerate(looks):
            assert close(numbers(page, at), exact(look, LAYER, query))
    choose(page, "Layer", "blocks.2.conv1.attention (8x8)")
    choose(page, "Head", "head 4")
    assert close(numbers(page), exact(looks[0], "blocks.2.conv1.attention", 2 * GRID + 6)[3])


def test_views_keys_and_download(page):
    click(page, 0.5, 0.5)
    choose(page, "View", "model view: all layers")
    assert page.locator(".thumb").count() == 16
    page.locator(".stage").first.press("ArrowLeft")
    assert "row 5, column 4" in page.locator(".stage").first.get_attribute("aria-label")
    with page.expect_download() as started:
        page.get_by_role("button", name="Download picture").nth(1).click()
    assert started.value.suggested_filename == "digits_no_positions-canvas_1_different.png"
    assert page.locator(".fixed canvas").first.get_attribute("aria-label").startswith("evidence for")


@pytest.mark.parametrize("scheme, dark", [("light", False), ("dark", True)])
def test_light_and_dark_on_a_narrow_screen(browser, report, scheme, dark):
    context = browser.new_context(viewport={"width": 360, "height": 700}, color_scheme=scheme)
    phone = context.new_page()
    wrong = watch(phone)
    phone.goto(report.as_uri())
    ready(phone, 2)
    page_colour = phone.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    ink = phone.evaluate("getComputedStyle(document.querySelector('.status')).color.match(/[\\d.]+/g).map(Number)")
    assert (sum(page_colour[:3]) < sum(ink[:3])) == dark
    assert phone.evaluate("document.scrollingElement.scrollWidth") <= 360
    context.close()
    assert not wrong
