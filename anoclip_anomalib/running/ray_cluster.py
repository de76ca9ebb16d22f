"""Ray, which is optional: a cluster that exists, or one on this machine for as long as it is needed."""

import os
from typing import Any


def import_ray() -> Any:
    """The module.

    Raises:
        ImportError: It is not installed; the message says what to install.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("The ray runner needs Ray: pip install 'anoclip_anomalib[ray]'") from error
    return ray


def connect(ray: Any, address: str | None, cpus: int | None = None) -> bool:
    """Connect to a cluster, unless this process is connected.

    Args:
        ray: The module.
        address: Of an existing cluster ("auto" or host:port); ``None`` starts one on this machine.
        cpus: Of the cluster that is started here; ``None`` for all.

    Returns:
        Whether the connection was made here, and is to be ended with ``ray.shutdown()``.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    local: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
    return True
