import socket
import time
from contextlib import suppress

import pytest
from huggingface_hub import constants

from anoclip_anomalib.clip import connection
from anoclip_anomalib.clip.connection import hub_if_reachable, reachable
from anoclip_anomalib.clip.weights import WeightsUnavailableError, load_clip


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setattr(connection, "getproxies", dict)


def test_what_listens_is_reachable_and_what_does_not_is_not(server, closed_port):
    assert reachable(f"http://{server}/a/file")
    assert not reachable(f"https://{closed_port}")


def test_a_proxy_is_asked_for(server, closed_port, monkeypatch):
    monkeypatch.setattr(connection, "getproxies", lambda: {"https": f"http://{server}"})
    assert reachable(f"https://{closed_port}")
    assert not reachable(f"http://{closed_port}")


def test_a_host_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(connection, "PATIENCE", 0.1)
    monkeypatch.setattr(socket, "create_connection", lambda *words: time.sleep(5))
    start = time.monotonic()
    assert not reachable("https://example.org")
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("before", [True, False])
def test_the_hub_is_offline_only_inside_and_only_when_unreachable(server, closed_port, monkeypatch, before):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", before)
    for address, offline in ((f"http://{server}", before), (f"http://{closed_port}", True), (None, before)):
        with suppress(KeyError), hub_if_reachable(address):
            assert constants.HF_HUB_OFFLINE is offline
            raise KeyError
        assert constants.HF_HUB_OFFLINE is before


@pytest.mark.parametrize(
    ("backbone", "pretrained"),
    [("ViT-B-32", "openai"), ("ViT-B-16-plus-240", "laion400m_e32"), ("hf-hub:nobody/nothing", None)],
)
def test_weights_that_cannot_be_had_are_named_at_once(backbone, pretrained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def refused(*words):
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refused)
    start = time.process_time()
    with pytest.raises(WeightsUnavailableError, match="Download|download"):
        load_clip(backbone, pretrained)
    assert time.process_time() - start < 5  # no model is built first
