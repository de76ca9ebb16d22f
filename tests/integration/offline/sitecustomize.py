"""Found by every Python process that a test starts with this folder on its path: connections to other machines fail."""

import socket

_LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", None, "")


def _refuse(*arguments: object, **_: object) -> None:
    msg = f"blocked in tests: {arguments}"
    raise socket.gaierror(socket.EAI_NONAME, msg)


_getaddrinfo, _connect = socket.getaddrinfo, socket.socket.connect
socket.getaddrinfo = lambda host, *rest, **named: (_getaddrinfo if host in _LOCAL else _refuse)(host, *rest, **named)
socket.socket.connect = lambda self, address: (
    _refuse(address) if isinstance(address, tuple) and address[0] not in _LOCAL else _connect(self, address)
)
