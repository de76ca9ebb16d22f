"""Without a connection, say so at once: the Hub's client tries for most of a minute, and other downloads wait for ever."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

HUB = constants.ENDPOINT
PATIENCE = 3.0  # seconds


@contextmanager
def hub_if_reachable(address: str | None) -> Iterator[None]:
    """Within the block the Hub's client looks into its cache only, if the address cannot be reached.

    Args:
        address: Where a download would come from; ``None`` if there will be none.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or (address is not None and not reachable(address))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def reachable(address: str) -> bool:
    """Whether a connection to the address, or to the proxy in front of it, can be opened within three seconds.

    Args:
        address: A URL.
    """
    parts = urlsplit(getproxies().get(urlsplit(address).scheme) or address)
    host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    opened: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), PATIENCE).close()
            opened.append(True)
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)  # looking a name up knows no time limit
    thread.start()
    thread.join(PATIENCE)
    return bool(opened)
