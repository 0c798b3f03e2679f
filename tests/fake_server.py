"""A chat completions server on loopback that misbehaves on order; it logs every request that it receives."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What the server does with one request."""

    text: str | None = "0"
    status: int = 200
    headers: dict = field(default_factory=dict)
    body: object = None
    """Instead of a chat completion."""
    refusal: str | None = None
    finish: str = "stop"
    delay_s: float = 0.0


def has_picture(request):
    return any(p["type"] == "image_url" for m in request["messages"] for p in m["content"])


class FakeServer:
    """`answer(request, number)` decides; `log` holds (sha256 of the body, request, headers) in order."""

    def __init__(self, answer):
        self.answer, self.log, self.lock = answer, [], threading.Lock()
        self.url = ""

    def digests(self, *, pictures=True):
        """Sha256 of each request's body: for requests with pictures one question each, but for retries."""
        return [d for d, request, _ in self.log if has_picture(request) == pictures]


@contextmanager
def serve(answer, *, port=0):
    server = FakeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer: else delayed acknowledgements cost 40 ms each
        disable_nagle_algorithm = True

        def log_message(self, *_):
            pass

        def do_POST(self):
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            request = json.loads(raw)
            with server.lock:
                number = len(server.log)
                server.log.append((sha256(raw).hexdigest(), request, {k.lower(): v for k, v in self.headers.items()}))
            answer = server.answer(request, number)
            time.sleep(answer.delay_s)
            self.reply(answer, completion(request, answer) if answer.body is None else answer.body)

        def reply(self, answer, body):
            raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(answer.status)
            kind = "text/html" if isinstance(body, str) else "application/json"
            for name, value in {"Content-Type": kind, **answer.headers, "Content-Length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # the default of 5 makes clients wait a second

    http = Server(("127.0.0.1", port), Handler)
    http.handle_error = lambda request, address: None  # a client that is killed cuts its connections
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def completion(request, answer):
    if answer.status != 200:
        return {"error": {"message": answer.text, "code": None}}
    message = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010},
    }
