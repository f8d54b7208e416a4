"""Media over http: within bytes and seconds, and never from an address that isn't open to everyone."""

import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from mlxlm.errors import MediaError
from mlxlm.processors import fetch as fetching
from mlxlm.processors.fetch import fetch, is_open
from mlxlm.processors.images import open_image
from mlxlm.processors.messages import MediaPolicy, Source
from mlxlm.processors.recent import Recent

OPEN = MediaPolicy(private_hosts=True, timeout=3)


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 8, 7)).save(out, "PNG")
    return out.getvalue()


class Pages(BaseHTTPRequestHandler):
    """What the little server says, by path."""

    def do_GET(self):
        self.server.asked.append((self.headers["Host"], self.path))
        name = self.path.partition("?")[0].strip("/")
        getattr(self, f"page_{name}", self.missing)()

    def page_image(self):
        self.answer(200, png())

    def page_loop(self):
        self.answer(302, b"", Location="/loop")

    def page_moved(self):
        self.answer(301, b"", Location="/image?x=1")

    def page_inside(self):
        self.answer(302, b"", Location=f"http://inside.test:{self.server.server_port}/image")

    def page_file(self):
        self.answer(302, b"", Location="file:///etc/passwd")

    def page_lies(self):
        self.answer(200, b"x" * 50, **{"Content-Length": "99999999"})

    def page_endless(self):
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x" * 65536)
        except OSError:
            pass

    def page_slow(self):
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    def page_drip(self):
        try:
            for _ in range(200):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: " if _ == 0 else b"x")
                time.sleep(0.02)
        except OSError:
            pass

    def missing(self):
        self.answer(404, b"")

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.asked, server.daemon_threads = [], True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def url(site):
    site.asked.clear()
    return f"http://127.0.0.1:{site.server_port}"


def test_images_and_redirects(url, site):
    for path in ("image", "moved"):
        assert open_image(f"{url}/{path}", OPEN).getpixel((0, 0)) == (9, 8, 7)
    assert site.asked[-1][1] == "/image?x=1"


@pytest.mark.parametrize("path, problem", [
    ("nothing", "answers 404"), ("loop", "too many redirects"), ("file", "only http and https"),
    ("lies", "too large"), ("endless", "too large"),
])
def test_what_a_server_may_not_do(url, path, problem):
    with pytest.raises(MediaError, match=problem):
        fetch(f"{url}/{path}", OPEN, 1 << 20)


@pytest.mark.parametrize("path", ["slow", "drip"])
def test_time_is_bounded_in_all(url, path):
    """Also where a byte comes now and then, of the headers or of the body."""
    with pytest.raises(MediaError, match=r"time for it is over|timed out|TimeoutError"):
        fetch(f"{url}/{path}", MediaPolicy(private_hosts=True, timeout=0.3), 1 << 20)


def test_machines_of_ones_own_are_not_asked(url, site):
    for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "127.1", "2130706433", "0x7f000001",
                 "[::ffff:127.0.0.1]"):
        with pytest.raises(MediaError, match=r"public addresses only|can't be found|can't be fetched"):
            fetch(f"http://{host}:{site.server_port}/image", MediaPolicy(timeout=2), 1 << 20)
    assert site.asked == []


def names(monkeypatch, table):
    """Makes names resolve as the table says; each list's answers come in turn."""
    real, turns = socket.getaddrinfo, {name: list(answers) for name, answers in table.items()}

    def resolve(host, port, *args, **kwargs):
        if host not in turns:
            return real(host, port, *args, **kwargs)
        answer = turns[host].pop(0) if len(turns[host]) > 1 else turns[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_redirect_to_the_inside_is_checked_too(url, site, monkeypatch):
    names(monkeypatch, {"outside.test": [["127.0.0.1"]], "inside.test": [["10.0.0.1"]]})
    real = fetching.is_open
    monkeypatch.setattr(fetching, "is_open", lambda address: address == "127.0.0.1" or real(address))
    with pytest.raises(MediaError, match=r"public addresses only.*inside.test \(10.0.0.1\)"):
        fetch(f"http://outside.test:{site.server_port}/inside", MediaPolicy(timeout=2), 1 << 20)
    assert [path for _, path in site.asked] == ["/inside"]


def test_a_name_is_resolved_once(url, site, monkeypatch):
    """A name server's second answer, for the inside, is never asked for: the checked address is connected to."""
    asked = []
    names(monkeypatch, {"rebound.test": [["127.0.0.1"], ["10.0.0.1"]]})
    monkeypatch.setattr(fetching, "is_open", lambda address: asked.append(address) or address == "127.0.0.1")
    assert fetch(f"http://rebound.test:{site.server_port}/image", MediaPolicy(timeout=2), 1 << 20) == png()
    assert asked == ["127.0.0.1"] and site.asked == [(f"rebound.test:{site.server_port}", "/image")]


def test_one_closed_address_among_several_is_enough(monkeypatch):
    names(monkeypatch, {"both.test": [["93.184.216.34", "192.168.0.1"]]})
    with pytest.raises(MediaError, match=r"192\.168\.0\.1"):
        fetch("http://both.test/a.png", MediaPolicy(timeout=2), 1 << 20)


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
    "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
    "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "nonsense",
])
def test_addresses_that_are_closed(address):
    assert not is_open(address)


@pytest.mark.parametrize("address", [
    "93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808",
])
def test_addresses_that_are_open(address):
    assert is_open(address)


@pytest.mark.parametrize("url", [
    "http://", "http:///a", "http://user:pass@example.com/", "http://example.com:0/", "http://example.com:99999/",
    "http://exa mple.com/", "http://example.com/\r\nX: y", "https://[::1", "http://" + "a" * 300 + ".com/",
])
def test_urls_that_are_none(url):
    with pytest.raises(MediaError):
        fetch(url, MediaPolicy(timeout=1), 1 << 10)


def test_an_address_is_asked_once_in_some_minutes(url, site):
    class Made:
        def __init__(self):
            self.arrays = {"x": np.zeros(1000)}

    recent, source = Recent(max_bytes=9000), Source("image", f"{url}/image", False)
    made = [recent.get(source, OPEN, "", lambda: fetch(source.value, OPEN, 1 << 20) and Made()) for _ in range(3)]
    assert len(site.asked) == 1 and made[0] is made[2]
    recent.get(Source("image", b"other", True), OPEN, "", Made)  # which leaves no room for the first
    recent.get(source, OPEN, "", lambda: fetch(source.value, OPEN, 1 << 20) and Made())
    assert len(site.asked) == 2 and recent.nbytes == 8000


def test_urls_may_be_forbidden():
    with pytest.raises(MediaError, match="not fetched here"):
        open_image("https://example.com/a.png", MediaPolicy(remote=False))
