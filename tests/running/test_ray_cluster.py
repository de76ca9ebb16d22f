"""Ray is optional, and a connection that is there is used."""

import sys
from types import SimpleNamespace

import pytest

from anoclip_anomalib.running.ray_cluster import connect, import_ray


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'anoclip_anomalib\[ray\]'"):
        import_ray()


@pytest.mark.parametrize(
    ("address", "options"),
    [
        (None, {"address": None, "num_cpus": 3, "include_dashboard": False}),
        ("auto", {"address": "auto"}),
    ],
)
def test_a_cluster_is_begun_once(address, options):
    begun = []
    ray = SimpleNamespace(is_initialized=lambda: bool(begun), init=lambda **given: begun.append(given))
    assert connect(ray, address, 3)
    assert not connect(ray, address, 3)
    assert begun == [{**options, "log_to_driver": False, "configure_logging": False}]
