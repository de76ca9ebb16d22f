"""How arguments are refused, and what is told of an error."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


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


def closest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The nearest of several names, whatever their case; ``None`` if none is near."""
    folded = {one.casefold(): one for one in names}
    found = get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """The end of an error about a name that there is not: the nearest one, or what else is to be said."""
    near = closest(name, names)
    return f"; did you mean {near}?" if near else otherwise and f"; {otherwise}"


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
