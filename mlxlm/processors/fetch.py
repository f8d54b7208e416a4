"""Media over http and https: to addresses of the open internet only, within bytes and seconds.

A name is resolved once; the address that was checked is the one connected to, so that a second answer of a name server
can't lead elsewhere. Each redirect is checked like the first address.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from ..errors import MediaError
from .messages import MediaPolicy

REDIRECTS = 5
HEADERS = {"User-Agent": "mlxlm", "Accept": "image/*,video/*,*/*;q=0.1", "Accept-Encoding": "identity"}
Address = tuple[int, str]


def fetch(url: str, policy: MediaPolicy, limit: int) -> bytes:
    """What a URL holds, at most ``limit`` bytes. Raises MediaError."""
    if not policy.remote:
        raise MediaError("URLs are not fetched here", found=url[:80], hint="MediaPolicy(remote=True) allows it.")
    deadline = time.monotonic() + policy.timeout
    for _ in range(REDIRECTS + 1):
        parts = _parts(url)
        found = _get(parts, _address(parts, policy), deadline, limit)
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise MediaError("too many redirects", found=url[:80], expected=f"at most {REDIRECTS}")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise MediaError(f"not a URL ({error})", found=url[:80]) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() or ord(c) < 33 for c in url):
        raise MediaError("only http and https URLs are fetched", found=url[:80])
    if port == 0 or parts.username or parts.password:
        raise MediaError("a URL with a name, a password or port 0 isn't fetched", found=f"{parts.hostname}:{port}")
    return parts


def _address(parts: SplitResult, policy: MediaPolicy) -> Address:
    """(family, address) to connect to: the first of the host's, if all of them are open to everyone."""
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise MediaError(f"the host can't be found ({error})", found=host[:80]) from error
    addresses = [(family, str(sockaddr[0])) for family, _, _, _, sockaddr in found
                 if family in (socket.AF_INET, socket.AF_INET6)]
    if not addresses:
        raise MediaError("the host has no address", found=host[:80])
    if not policy.private_hosts and (closed := [a for _, a in addresses if not is_open(a)]):
        raise MediaError("media are fetched from public addresses only", found=f"{host[:80]} ({closed[0]})",
                         hint="MediaPolicy(private_hosts=True) allows others.")
    return addresses[0]


def is_open(address: str) -> bool:
    """Whether an IP address is one of the open internet: neither of this machine nor of a private network."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    teredo = getattr(ip, "teredo", None)
    if isinstance(ip, ipaddress.IPv6Address) and ip in _NAT64:
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if inner is not None or teredo is not None:
        return inner is not None and is_open(str(inner))
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class _Http(http.client.HTTPConnection):
    """A connection to an address that was checked, whatever the host's name would resolve to now."""

    def __init__(self, parts: SplitResult, address: Address, timeout: float):
        self._address, self._secure, self.late = address, parts.scheme == "https", False
        super().__init__(parts.hostname or "", parts.port or (443 if self._secure else 80), timeout=timeout)

    def connect(self) -> None:
        family, address = self._address
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect((address, self.port))
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def cut(self) -> None:
        """Ends whatever waits for the server: a timeout of the socket begins anew with every byte."""
        self.late = True
        with suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)


def _get(parts: SplitResult, address: Address, deadline: float, limit: int) -> bytes | str:
    """The body, or where a redirect leads."""
    host = parts.hostname or ""
    left = _left(deadline, host)
    connection = _Http(parts, address, left)
    clock = threading.Timer(left, connection.cut)
    clock.daemon = True
    clock.start()
    try:
        path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        connection.request("GET", path, headers=HEADERS)
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308) and (to := response.headers.get("Location")):
            return to
        if response.status != 200:
            raise MediaError(f"the server answers {response.status} {response.reason[:40]}", found=host[:80])
        return _body(response, connection, deadline, limit, host)
    except (OSError, http.client.HTTPException, ValueError) as error:
        told = "the time for it is over" if connection.late else f"{type(error).__name__}: {str(error)[:100]}"
        raise MediaError(f"it can't be fetched ({told})", found=host[:80]) from error
    finally:
        clock.cancel()
        with suppress(OSError):
            connection.close()


def _body(response: http.client.HTTPResponse, connection: _Http, deadline: float, limit: int, host: str) -> bytes:
    told = response.headers.get("Content-Length", "")
    if told.isdecimal() and int(told) > limit:
        raise MediaError("too large", found=f"{int(told):,} bytes", expected=f"at most {limit:,}")
    pieces, size = [], 0
    while True:
        if connection.sock is not None:
            connection.sock.settimeout(_left(deadline, host))
        piece = response.read1(1 << 16)
        _left(deadline, host)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise MediaError("too large", found=f"more than {limit:,} bytes", expected=f"at most {limit:,}")


def _left(deadline: float, host: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise MediaError("the time for it is over", found=host[:80], hint="MediaPolicy(timeout=…) sets it.")
    return left
