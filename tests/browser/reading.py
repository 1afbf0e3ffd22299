"""What the viewer shows, read as a person would, and what it should."""

import re
from contextlib import suppress

import torch

LAYER = "blocks.3.conv1.attention"


def ready(page, count=1):
    """Wait for the answers of ``count`` networks."""
    page.wait_for_function(f"document.querySelectorAll('.aa-viewer .network').length === {count}", timeout=30_000)
    page.wait_for_selector(".aa-viewer[data-milliseconds]", timeout=30_000)
    page.wait_for_function("!document.querySelector('.status').textContent.includes('nothing of that part')")


def click(page, x, y, at=0):
    """On the picture, at shares of it, and wait for the answer; again if the page was being laid out meanwhile."""
    from playwright.sync_api import TimeoutError as NoAnswer

    with suppress(NoAnswer):
        return _click(page, x, y, at, patience=5_000)
    return _click(page, x, y, at, patience=20_000)


def _click(page, x, y, at, patience):
    stage = page.locator(".stage").nth(at)
    stage.evaluate("stage => stage.scrollIntoView({block: 'nearest'})")  # at once: it may be drawn anew
    box = stage.bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_function(
        f"(() => {{ const at = document.querySelector('.aa-viewer').dataset.point.split(' ').map(Number);"
        f" return Math.abs(at[0] - {x}) < 0.01 && Math.abs(at[1] - {y}) < 0.01; }})()",
        timeout=patience,
    )


def named(page, start):
    """Wait until the picture is of the image whose name starts so."""
    page.wait_for_function(f"document.querySelector('.stage')?.ariaLabel?.startsWith('{start}')", timeout=20_000)


def numbers(page, at=0):
    """The table of weights: [H, W]."""
    details = page.locator(".numbers").nth(at)
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    details.locator("td").first.wait_for()
    rows = details.evaluate(
        "d => [...d.querySelectorAll('tr')].map(r => [...r.querySelectorAll('td')].map(c => Number(c.dataset.weight)))"
    )
    shown = details.evaluate(
        "d => [...d.querySelectorAll('tr')].map(r => [...r.querySelectorAll('td')].map(c => Number(c.textContent)))"
    )
    weights = torch.tensor(rows)
    assert (torch.tensor(shown) / 100 - weights).abs().max() < 1e-4
    return weights


def choose(page, label, text, at=0):
    """An option of one of the viewer's own lists."""
    named = page.locator(".aa-viewer label").filter(has_text=re.compile(f"^{label} "))
    named.locator("select").nth(at).select_option(label=text)


def close(shown, heads):
    """Whether numbers are a head's weights [H, W], or the mean of heads' [N, H, W], to the byte of each."""
    heads = heads if heads.dim() == 3 else heads[None]
    return (shown - heads.mean(dim=0)).abs().max() <= heads.amax(dim=(-2, -1)).mean() / 500


def strongest(text):
    """(row, column, percent) out of a status line."""
    found = re.search(r"most at row (\d+), column (\d+), ([\d.]+)%", text)
    return int(found[1]), int(found[2]), float(found[3])
