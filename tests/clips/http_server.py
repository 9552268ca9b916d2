"""A real HTTP server that misbehaves when told to."""

import contextlib
import http.server
import mimetypes
import re
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files` and `server.redirects`; `server.faults` says what goes wrong, one item a request.

    A fault is a status, (status, headers), or one of: "break" (half of the body, then the connection ends), "long" (the
    length promises a byte more), "stall" (ten bytes, then silence), "drip" (a byte now and then), "no ranges", "wrong
    part", None.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, (int, tuple)):
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            self._head(status, {"Content-Length": "0"} | headers)
        elif self.path in server.redirects:
            self._head(302, {"Location": server.redirects[self.path], "Content-Length": "0"})
        elif self.path in server.files:
            self._send(server.files[self.path], fault)
        else:
            self._head(404, {"Content-Length": "0"})

    def _head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, data, fault):
        server, headers = self.server, {}
        start, stop, status = 0, len(data), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        unchanged = self.headers.get("If-Range") in (None, server.tag)
        if wanted and unchanged and server.ranges and fault != "no ranges":
            start, stop = int(wanted[1]), min(int(wanted[2]) + 1 if wanted[2] else len(data), len(data))
            if start >= len(data):
                self._head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
                return
            shown = start + 1 if fault == "wrong part" else start
            status, headers["Content-Range"] = 206, f"bytes {shown}-{stop - 1}/{len(data)}"
        headers["Content-Type"] = mimetypes.guess_type(self.path)[0] or "application/octet-stream"
        if server.tag:
            headers["ETag"] = server.tag
        if server.lengths == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        elif server.lengths:
            headers["Content-Length"] = str(stop - start + (fault == "long"))
        else:
            headers["Connection"] = "close"
        self._head(status, headers)
        body = data[start:stop]
        if fault == "break":
            body = body[: len(body) // 2]
        if fault in ("break", "long"):
            self.close_connection = True
        with contextlib.suppress(ConnectionError):
            if fault == "stall":
                self.wfile.write(body[:10])
                server.release.wait(60)
                self.close_connection = True
                return
            if fault == "drip":
                while not server.release.wait(0.05) and body:
                    self._write(body[:1])
                    body = body[1:]
                return
            chunked = server.lengths == "chunked"
            for at in range(0, len(body), 1 << 14):
                piece = body[at : at + (1 << 14)]
                self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked and fault != "break":
                self._write(b"0\r\n\r\n")

    def _write(self, data):
        self.wfile.write(data)
        self.server.count(len(data))

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Attributes: `asked`, (path, range) of each request; `sent`, bytes of bodies; `lengths`, whether it tells a body's
    length, or "chunked"; and what else `Handler` reads."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.redirects, self.faults, self.asked = {}, {}, [], []
        self.tag, self.ranges, self.lengths = '"one"', True, True
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.sent, self._lock = 0, threading.Lock()

    def count(self, sent):
        with self._lock:
            self.sent += sent

    def handle_error(self, *_):
        pass


@contextlib.contextmanager
def serving():
    """A server in a thread."""
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
