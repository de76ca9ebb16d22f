"""How arguments are refused."""

from collections.abc import Mapping


def refuse(faults: Mapping[str, bool], before: str = "") -> None:
    """Refuse the first argument that is wrong.

    Args:
        faults: What would be wrong -> whether it is.
        before: What the message begins with.

    Raises:
        ValueError: If something is wrong, with its message.
    """
    for message, wrong in faults.items():
        if wrong:
            raise ValueError(f"{before}{message}")
