"""The page of ``aaconv explore``: choose a network and an image, click, and see what every head looks at."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before Gradio is imported; the page calls nobody

import gradio as gr

from aaconv._signals import handled
from aaconv.explain.page import source
from aaconv.explain.samples import samples
from aaconv.explain.shelf import IMAGE_BYTES, Session, Shelf
from aaconv.nn.attention import PARTS

ALONE = "none"  # choice of no second network
CHECKPOINT_SIZE = "300mb"
SESSION_SECONDS = 3600  # that an idle page is kept
GLUE = """
const start = () => {
  if (!props.value) return;
  const { token, scenes } = JSON.parse(props.value);
  const ask = async (scene, point, part) => {
    const found = await server.maps({ token, point, part });
    if (found.error) throw new Error(found.error);
    return found.maps.map((network) => network.map((layer) => layer && mountViewer.decode(layer)));
  };
  mountViewer(element.querySelector(".viewer-box"), scenes, ask, PARTS);
};
watch("value", start);
start();
"""
WORDS = f"""# Where a network looks
Choose a network and an image, then click or drag on the picture, or move with the arrow keys. Orange is where each head
looks from the blue frame. Images up to {IMAGE_BYTES // 1_000_000} MB are taken; none is kept.
"""


def serve(
    checkpoints: Sequence[str | Path], host: str = "127.0.0.1", port: int = 7860, *, browser: bool = False
) -> None:
    """Serve the page until interrupted.

    Args:
        checkpoints: Files, or names of those in the package.
        host: Address to listen on; anything but loopback lets others in.
        port: To listen on.
        browser: Open the page there.

    Raises:
        FileNotFoundError, ValueError: A checkpoint that cannot be looked into.
        OSError: The port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="aaconv-explore-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # where uploads go; deleted when the page ends
        page = build_page(Shelf(checkpoints))
        ended = Event()
        # By an event: an exception could be swallowed while the server starts.
        with handled((signal.SIGINT, signal.SIGTERM), lambda *_: ended.set()):
            print(f"{launch(page, host, port, browser=browser)} is ready; Ctrl-C ends it", flush=True)
            ended.wait()
            page.close(verbose=False)


def launch(page: gr.Blocks, host: str, port: int, *, browser: bool = False) -> str:
    """Start serving in the background and return the address."""
    _, address, _ = page.queue(default_concurrency_limit=4).launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,  # its own line offers a link that no option makes
        ssr_mode=False,
        max_file_size=CHECKPOINT_SIZE,
        footer_links=[],
        css=source("viewer.css"),
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )
    return address


def build_page(shelf: Shelf) -> gr.Blocks:
    """The page over a shelf."""
    first = shelf.titles(Session())[0]
    with gr.Blocks(title="aaconv explore", analytics_enabled=False, delete_cache=(600, SESSION_SECONDS)) as page:
        session = gr.State(None, time_to_live=SESSION_SECONDS, delete_callback=shelf.forget)
        gr.Markdown(WORDS)
        with gr.Row():
            network = gr.Dropdown([first], value=first, label="Network", elem_id="network")
            other = gr.Dropdown([ALONE], value=ALONE, label="Compare with", elem_id="other")
            checkpoint = gr.UploadButton(
                "Add a checkpoint (.safetensors)", file_types=[".safetensors"], elem_id="checkpoint"
            )
        gallery = gr.Gallery(
            label="Samples",
            columns=8,
            height=160,
            object_fit="contain",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="samples",
        )
        with gr.Row():
            upload = gr.UploadButton("Your image", file_types=["image"], variant="primary", elem_id="upload")
            with gr.Accordion("Webcam", open=False):
                webcam = gr.Image(sources=["webcam"], type="filepath", label="Webcam", elem_id="webcam")
        script = source("viewer.js") + GLUE.replace("PARTS", str(list(PARTS)))
        viewer = gr.HTML(
            "",
            html_template='<div class="viewer-box"></div>',
            js_on_load=script,
            server_functions=[_maps(shelf)],
            elem_id="viewer",
        )
        chosen, shown = [network, other, session], [viewer, session]

        def look(title: str, second: str, held: Session) -> tuple[str, Session]:
            titles = [title] + ([second] if second not in (ALONE, title) else [])
            return _told(lambda: shelf.look(titles, held)), held

        def begin() -> Any:
            held = Session()
            titles = shelf.titles(held)
            shelf.take_sample(first, 0, held)
            choices = gr.Dropdown(titles, value=first), gr.Dropdown([ALONE, *titles], value=ALONE)
            return *choices, _pictures(shelf, first, held), *look(first, ALONE, held)

        def change(title: str, second: str, held: Session) -> Any:
            pictures = _told(lambda: _pictures(shelf, title, held))
            return pictures, *look(title, second, held)

        def sample(event: gr.SelectData, title: str, second: str, held: Session) -> Any:
            _told(lambda: shelf.take_sample(title, event.index, held))
            return look(title, second, held)

        def take(path: str | None, title: str, second: str, held: Session) -> Any:
            if path is None:
                return gr.skip(), held
            _told(lambda: shelf.take(path, held))
            return look(title, second, held)

        def add(path: str, second: str, held: Session) -> Any:
            title = _told(lambda: shelf.add(path, held))
            titles = shelf.titles(held)
            second = second if second in titles else ALONE
            choices = gr.Dropdown(titles, value=title), gr.Dropdown([ALONE, *titles], value=second)
            return *choices, _pictures(shelf, title, held), *look(title, second, held)

        hidden: dict[str, Any] = {"api_visibility": "private"}
        page.load(begin, None, [network, other, gallery, *shown], **hidden)
        network.input(change, chosen, [gallery, *shown], **hidden)
        other.input(look, chosen, shown, **hidden)
        gallery.select(sample, chosen, shown, **hidden)
        upload.upload(take, [upload, *chosen], shown, **hidden)
        webcam.input(take, [webcam, *chosen], shown, **hidden)
        checkpoint.upload(add, [checkpoint, other, session], [network, other, gallery, *shown], **hidden)
    return page


def _maps(shelf: Shelf) -> Callable[[Any], dict[str, Any]]:
    def maps(asked: Any) -> dict[str, Any]:
        return shelf.maps(asked)

    return maps


def _pictures(shelf: Shelf, title: str, held: Session) -> list[tuple[Any, str]]:
    return [(image, name) for name, image in samples(shelf.network(title, held).card).items()]


def _told(work: Callable[[], Any]) -> Any:
    """What ``work`` gives; what is wrong with the input is shown on the page."""
    try:
        return work()
    except (ValueError, OSError) as error:
        raise gr.Error(str(error), print_exception=False) from error
