"""Captions of the training images, all from the prompt vocabulary: a template, a domain, a state and a name."""

from collections.abc import Sequence

import numpy as np

from anoclip_anomalib.prompts import PromptBuilder, vocabulary

GENERIC_NAMES = ("object", "part", "product", "item", "component", "surface", "texture", "material", "sample", "piece")


class Captioner:
    """Draws captions that say what an image shows (its category's name) and whether it is normal.

    Args:
        words: Words of which names are made that no image carries, so that the text encoder learns that a state means
            the same beside a name that it has never seen.
    """

    def __init__(self, words: Sequence[str]) -> None:
        used = " ".join((*vocabulary.NORMAL_STATES, *vocabulary.ABNORMAL_STATES, *vocabulary.TEMPLATES))
        self.words = [word for word in words if word not in used]
        self.builders = (PromptBuilder(texture=False), PromptBuilder(texture=True))

    def draw(self, rng: np.random.Generator, name: str, abnormal: bool) -> str:
        """One caption with the given name; underscores and blanks are used alike."""
        name = name.replace(" ", "_") if rng.random() < 0.3 else name
        builder = self.builders[int(rng.integers(2))]
        states = builder.abnormal_states if abnormal else builder.normal_states
        phrase = states[int(rng.integers(len(states)))].replace("{}", name)
        domains = builder.texture_domains if builder.texture else builder.industrial_domains
        domain = domains[int(rng.integers(len(domains)))]
        template = builder.templates[int(rng.integers(len(builder.templates)))]
        article = "an" if domain[0] in "aeiou" and template.startswith("a {domain}") else "a"
        return article + template[1:].replace("{domain}", domain).replace("{}", phrase)

    def draw_generic(self, rng: np.random.Generator, abnormal: bool) -> str:
        """One caption with a general word, or with one to two random words in the place of the name."""
        if rng.random() < 0.5:
            name = GENERIC_NAMES[int(rng.integers(len(GENERIC_NAMES)))]
        else:
            name = " ".join(self.words[int(i)] for i in rng.integers(len(self.words), size=int(rng.integers(1, 3))))
        return self.draw(rng, name, abnormal)
