"""The page of `aaconv explore`: a click's time in a large network, the page's start, clicks of several pages at once.

Each answer is compared with the attention of its own page's image before anything is timed, and while several ask.

Run: python benchmarks/exploring.py [--model aa_resnet50] [--size 224] [--clicks 30] [--sessions 4] [--rate 20]
     [--seconds 20] [--out FOLDER]
"""

import argparse
import json
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from PIL import Image

from aaconv._files import write_text
from aaconv.explain.app import build_page, launch
from aaconv.explain.packing import pack_from
from aaconv.explain.shelf import Session, Shelf
from aaconv.training.checkpoint import ModelCard, save_checkpoint

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    options = _options()
    rows = [click(options.model, options.size, options.clicks)]
    shelf = Shelf(["digits", "detect_digits"])
    page = build_page(shelf)
    address = launch(page, "127.0.0.1", _free_port())
    rows.append(first_interaction(address))
    rows.append(many(shelf, page, address, options.sessions, options.rate, options.seconds))
    page.close(verbose=False)
    for row in rows:
        print(json.dumps(row))
    print(machine())
    if options.out:
        write_text(options.out / "exploring.json", json.dumps({"machine": machine(), "rows": rows}, indent=1))
    return int(bool(rows[-1]["wrong"] or rows[-1]["lost"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="aa_resnet50")
    parser.add_argument("--size", type=int, default=224, help="pixels an edge")
    parser.add_argument("--clicks", type=int, default=30)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--rate", type=float, default=20, help="clicks a second of all sessions together")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write exploring.json there too")
    return parser.parse_args()


def click(model: str, size: int, clicks: int) -> dict[str, Any]:
    """All heads of all layers from a point, as the server answers, after the first forward pass."""
    moments = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    card = ModelCard(model, tuple(map(str, range(1000))), 3, size, **moments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{model}.safetensors"
        save_checkpoint(path, card.build(), card)
        shelf, session = Shelf([path]), Session()
    session.image = Image.effect_noise((size, size), 80).convert("RGB")
    start = time.perf_counter()
    scene = json.loads(shelf.look([model], session))
    first = 1e3 * (time.perf_counter() - start)
    layers = scene["scenes"][0]["networks"][0]["layers"]
    taken = []
    for index in range(clicks):
        point = [(index + 0.5) / clicks, (7 * index % clicks + 0.5) / clicks]
        start = time.perf_counter()
        found = shelf.maps({"token": scene["token"], "point": point, "part": "both"})
        text = json.dumps(found)
        taken.append(1e3 * (time.perf_counter() - start))
    return {
        "name": f"click, {model} at {size}",
        "ms": statistics.median(taken),
        "slowest": max(taken),
        "image": first,
        "layers": len(layers),
        "heads": sum(layer["heads"] for layer in layers),
        "bytes": len(text),
    }


def first_interaction(address: str) -> dict[str, Any]:
    """Seconds from a browser's request until the picture answers clicks."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return {"name": "first interaction", "seconds": None, "why": "no browser"}
    from playwright.sync_api import sync_playwright

    taken = []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(3):
            opened = started.new_context().new_page()
            start = time.perf_counter()
            opened.goto(address)
            opened.wait_for_selector(".aa-viewer[data-milliseconds]")
            taken.append(time.perf_counter() - start)
        started.close()
    return {"name": "first interaction", "seconds": statistics.median(taken), "all": taken}


def many(shelf: Shelf, page: Any, address: str, sessions: int, rate: float, seconds: float) -> dict[str, Any]:
    """Clicks of several sessions, each on an image of its own, over HTTP."""
    viewer = next(block for block in page.blocks.values() if getattr(block, "elem_id", None) == "viewer")
    held = []
    for index in range(sessions):
        session = Session()
        shelf.take_sample("digits", index, session)
        held.append(json.loads(shelf.look(["digits"], session))["token"])
    results: list[tuple[float, bool]] = []
    lost: list[str] = []

    def ask(index: int) -> None:
        count = round(rate * seconds / sessions)
        begin = time.perf_counter()
        for number in range(count):
            time.sleep(max(0.0, begin + number * sessions / rate - time.perf_counter()))
            point = [(number % 8 + 0.5) / 8, (number // 8 % 8 + 0.5) / 8]
            start = time.perf_counter()
            try:
                found = _post(address, viewer._id, {"token": held[index], "point": point, "part": "both"})
            except OSError as error:
                lost.append(str(error))
                continue
            taken = 1e3 * (time.perf_counter() - start)
            expected = [pack_from(look, (point[0], point[1])) for look in shelf._looks[held[index]]]
            results.append((taken, found.get("maps") == expected))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(sessions)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = sorted(taken for taken, _ in results)
    return {
        "name": f"{sessions} sessions",
        "clicks": len(results),
        "per second": len(results) / (time.perf_counter() - start),
        "lost": len(lost),
        "wrong": sum(not right for _, right in results),
        "ms": statistics.median(times),
        "99%": times[int(0.99 * (len(times) - 1))],
    }


def _post(address: str, component: int, asked: dict[str, Any]) -> Any:
    body = {"data": asked, "component_id": component, "fn_name": "maps", "session_hash": asked["token"]}
    request = urllib.request.Request(
        f"{address.rstrip('/')}/gradio_api/component_server",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
