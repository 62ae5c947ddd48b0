"""Endpoints on this machine, whose answers and faults a test decides."""

import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Images = NDArray[np.float64]


@dataclass
class Reply:
    """What is sent back in place of an answer."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    between_bytes: float = 0.0


@dataclass
class Endpoint:
    """A server and what it was asked.

    Attributes:
        answer: the JSON value for images float64 [B, C, H, W].
        faults: replies that are sent first, each once.
        seconds: that each answer takes.
        before_answer: called with the number of the request, from 0, once it was read.
        asked: numbers of images of all requests, whatever was answered.
        answered: how often each image was answered, by its hash.
        documents: bodies of the requests.
        headers: of the requests.
        times: when they came, in seconds since 1970.
        most_at_once: requests under way at once.
        url: of it.
    """

    answer: Callable[[Images], Any]
    faults: list[Reply] = field(default_factory=list)
    seconds: float = 0.0
    before_answer: Callable[[int], None] = lambda number: None
    asked: list[int] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    documents: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""

    @property
    def images(self) -> int:
        """Images that reached it, in all."""
        return sum(self.asked)


def labels_of(network: nn.Module, name: str = "predictions") -> Callable[[Images], Any]:
    """Answer with the numbers of classes of a network."""
    return lambda images: {name: _logits(network, images).argmax(1).tolist()}


def probabilities_of(network: nn.Module, name: str = "predictions") -> Callable[[Images], Any]:
    """Answer with the probabilities of a network."""
    return lambda images: {name: _logits(network, images).softmax(1).tolist()}


def logits_of(network: nn.Module, name: str = "predictions") -> Callable[[Images], Any]:
    """Answer with the logits of a network."""
    return lambda images: {name: _logits(network, images).tolist()}


@torch.no_grad()
def _logits(network: nn.Module, images: Images) -> torch.Tensor:
    logits: torch.Tensor = network(torch.from_numpy(images).float())
    return logits


@contextmanager
def sending(send: Callable[[socket.socket], None]) -> Iterator[str]:
    """Give the URL of a server that takes requests, and sends whatever a function makes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(1 << 16)
            head, _, body = received.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            while len(body) < length:
                body += connection.recv(1 << 16)
            send(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/invocations"
    finally:
        # Only this wakes a thread that waits for clients.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextmanager
def serving(
    answer: Callable[[Images], Any] | None = None, *faults: Reply, **given: Any
) -> Iterator[Endpoint]:
    """Serve on a free port of 127.0.0.1."""
    endpoint = Endpoint(answer or (lambda images: {"predictions": [0] * len(images)}), list(faults))
    for name, value in given.items():
        setattr(endpoint, name, value)
    lock = threading.Lock()
    under_way = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal under_way
            body = self.rfile.read(int(self.headers["Content-Length"]))
            document = json.loads(body)
            (images,) = (np.array(value) for value in document.values())
            with lock:
                number = len(endpoint.asked)
                endpoint.asked.append(len(images))
                endpoint.documents.append(document)
                endpoint.headers.append(dict(self.headers))
                endpoint.times.append(time.time())
                under_way += 1
                endpoint.most_at_once = max(endpoint.most_at_once, under_way)
                fault = endpoint.faults.pop(0) if endpoint.faults else None
            try:
                endpoint.before_answer(number)
                self._reply(fault, images)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with lock:
                    under_way -= 1

        def _reply(self, fault: Reply | None, images: Images) -> None:
            if fault is None:
                time.sleep(endpoint.seconds)
                reply = Reply(json.dumps(endpoint.answer(images)).encode())
                # Before whoever asked can go on.
                with lock:
                    endpoint.answered.update(
                        hashlib.sha256(image.tobytes()).hexdigest() for image in images
                    )
            else:
                time.sleep(fault.seconds)
                reply = fault
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if reply.between_bytes:
                for byte in reply.body:
                    time.sleep(reply.between_bytes)
                    self.wfile.write(bytes([byte]))
            else:
                self.wfile.write(reply.body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            # Of clients that are gone.
            pass

    server = Server(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}/invocations"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
