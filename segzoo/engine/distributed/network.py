"""Which network interface reaches the other machines."""

import contextlib
import fcntl
import socket
import struct
from urllib.parse import urlparse

_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


def interface_towards(url: str) -> str | None:
    """Return the network interface of this machine that reaches the host of an address.

    Gloo takes the interface of this machine's host name, which on many machines is the loopback: the other
    machines then wait for it until the timeout.

    Args:
        url: tcp://HOST:PORT.

    Returns:
        A name such as "eth0"; None where it is unknown (no such host, no route, not Linux, IPv6 only).
    """
    target = urlparse(url)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((target.hostname, target.port or 1))  # A datagram socket sends nothing here.
            own_address = probe.getsockname()[0]
    except (OSError, TypeError):
        return None
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if _address(name) == own_address), None)


def _address(interface: str) -> str | None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("256s", interface.encode()[:15])
        answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)
        return socket.inet_ntoa(answer[20:24])
    return None
