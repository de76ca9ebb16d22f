"""How arguments are refused, and what is told of an error."""

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


_AROUND = ("Given value", "Subtypes:", "Errors:", "Does not validate against any of the Union", "Expected a <class 'NoneType'>")


def own_words(error: BaseException) -> str:
    """An error's own words in one line, without the types and the whole configuration that jsonargparse puts around them.

    The messages of other errors are given as they are.
    """
    message = str(error)
    if "Given value" not in message:
        return message
    lines = (line.strip(" -") for line in message.splitlines())
    return " ".join(line for line in lines if line and not line.startswith(_AROUND)) or message
