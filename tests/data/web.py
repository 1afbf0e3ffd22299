"""A web server that breaks connections off."""

import http.server
import threading
from contextlib import contextmanager


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``, ``content`` for all others; ``cuts`` says after how many bytes the next answers break off."""

    daemon_threads = True
    content, ranges, status, shift, length = b"", True, 200, 0, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts, self.asked, self.files, self.refusals = [], [], {}, []
        self.url = f"http://127.0.0.1:{self.server_port}/file.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    """Range as servers do it, or as ``Server`` says."""

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        status = server.refusals.pop(0) if server.refusals else server.status
        if status != 200:
            return self.send_error(status)
        content = server.files.get(self.path, server.content)
        start = int(asked[len("bytes=") : -1]) if asked and server.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        body = content[start:]
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(content) - 1}/{len(content)}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    """A running server."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
