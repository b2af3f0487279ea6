"""Where a URL that comes from a message or a person may lead: to listed hosts, at public addresses, and nowhere else.

For each request: the host must be on the list; its name is looked up once; every address found must be public (IANA's special
registries, also behind IPv4-mapped, NAT64 and 6to4 addresses); the connection goes to the very address that was checked: a name
that points elsewhere a moment later (DNS rebinding) leads nowhere new. TLS still proves the name. No redirect is followed, no
proxy of the environment is used. A base URL that an operator sets for a system needs none of this.

Source: OWASP Server-Side Request Forgery Prevention Cheat Sheet.

Room rules: no error names a URL; it names the rule that was broken.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection

import httpx

from schemas.errors import SystemRejected

__all__ = ["Destinations", "is_public", "look_up"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: In IANA's special registries, and called global by some releases of Python, or by the registry itself.
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        ("192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24", "3fff::/20", "5f00::/16"),
    )
)


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public internet, also when it only wraps another one."""
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
        if address.teredo is not None or address.is_site_local:
            return False
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def look_up(host: str, port: int) -> list[Address]:
    """Return the addresses of a host, the preferred first. Raises `OSError` if it has none.

    The system's resolver also reads spellings such as 2130706433 or 0x7f.1; what it makes of them is what is checked.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found))


class Destinations(httpx.AsyncBaseTransport):
    """A transport for `http.new_client` that keeps to the rule. `private`: listed hosts that may be at any address."""

    def __init__(
        self,
        hosts: Collection[str],
        *,
        private: Collection[str] = (),
        resolve: Callable[[str, int], Awaitable[list[Address]]] = look_up,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._private = {host.lower() for host in private}
        self._resolve = resolve
        self._tls = tls
        # One pool for each host: a connection that proved one name is never used for another one at the same address.
        self._pools: dict[str, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send to the checked address. Raises `SystemRejected` for a destination that is not allowed."""
        host = request.url.host.lower()
        if request.url.scheme not in {"http", "https"} or host not in self._hosts:
            raise SystemRejected("destination: the host is not on the list of allowed hosts: add it if it is right")
        if request.url.scheme == "http" and host not in self._private:
            raise SystemRejected("destination: http is for hosts that are allowed at private addresses only: use https")
        addresses = await self._checked(host, request)
        if host not in self._pools:
            self._pools[host] = httpx.AsyncHTTPTransport(verify=self._tls or True, trust_env=False)
        return await self._pools[host].handle_async_request(_pinned(request, host, addresses[0]))

    async def _checked(self, host: str, request: httpx.Request) -> list[Address]:
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            addresses = await self._resolve(host, port)
        except OSError:
            addresses = []
        if not addresses:
            raise httpx.ConnectError("the host's name has no address", request=request)
        if host not in self._private and not all(map(is_public, addresses)):
            raise SystemRejected("destination: the host is at an address that is not public: allow it if it is right")
        return addresses

    async def aclose(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            await pool.aclose()


def _pinned(request: httpx.Request, host: str, address: Address) -> httpx.Request:
    """Return the request to an address; the name stays in the Host header, and is what the certificate must prove."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )
