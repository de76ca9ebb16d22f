"""From a class name to the normal and abnormal sentences that describe it. Strings only, no torch."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from anoclip_anomalib.checks import did_you_mean
from anoclip_anomalib.prompts import vocabulary
from anoclip_anomalib.prompts.knowledge import read_knowledge

logger = logging.getLogger(__name__)


class PromptSettings(TypedDict, total=False):
    """What can be changed about the prompts from YAML or the command line; what is left out keeps the authors' words.

    The keys are the arguments of :class:`PromptBuilder`.
    """

    normal_states: list[str]
    abnormal_states: list[str]
    extra_normal_states: dict[str, list[str]]
    extra_abnormal_states: dict[str, list[str]]
    industrial_domains: list[str]
    texture_domains: list[str]
    templates: list[str]
    class_names: dict[str, str]
    texture_classes: list[str]
    texture: bool | None
    knowledge: bool | str


@dataclass(frozen=True)
class PromptSet:
    """The sentences of one class, grouped by the state that they express.

    Attributes:
        class_name: The name as it stands in the sentences.
        texture: Whether the texture domains were used.
        normal: State phrase -> its sentences, for the normal states.
        abnormal: The same for the abnormal states.
    """

    class_name: str
    texture: bool
    normal: dict[str, tuple[str, ...]]
    abnormal: dict[str, tuple[str, ...]]

    @property
    def normal_sentences(self) -> list[str]:
        """All normal sentences, in the order of the states."""
        return [sentence for sentences in self.normal.values() for sentence in sentences]

    @property
    def abnormal_sentences(self) -> list[str]:
        """All abnormal sentences, in the order of the states."""
        return [sentence for sentences in self.abnormal.values() for sentence in sentences]


class PromptBuilder:
    """Builds the domain-aware prompts of a class: states x domains x templates.

    With the default words there are 7 states x 3 domains x 22 templates = 462 sentences for each polarity
    (authors' ``prompt_ensemble.py``).

    Args:
        normal_states: State phrases with ``{}`` for the class name.
        abnormal_states: The same for defective parts.
        extra_normal_states: Class name -> further normal states of that class (knowledge about a product). The class is
            named as in the data set, before ``class_names`` is applied; ``"*"`` stands for every class.
        extra_abnormal_states: Class name -> further abnormal states, for instance
            ``{"cookie": ["cracked {}", "{} with a bite mark"]}``.
        industrial_domains: Noun phrases for ``{domain}`` in prompts of objects.
        texture_domains: Noun phrases for ``{domain}`` in prompts of textures.
        templates: Sentences with ``{}`` for the state phrase and, if the domain matters, ``{domain}``. ``a {domain}``
            becomes ``an`` before a vowel.
        class_names: Data set name -> name in the sentences. Other names are used verbatim, underscores included, as
            the authors do.
        texture_classes: Classes that use the texture domains.
        texture: ``True`` or ``False`` decides for every class; ``None`` leaves it to ``texture_classes``.
        knowledge: ``True`` adds abnormal states of what is commonly wrong with a class, where this package knows it; a YAML
            file adds those in it. See :mod:`anoclip_anomalib.prompts.knowledge`.

    Raises:
        FileNotFoundError: If there is no such file of knowledge.
        ValueError: If a state or template lacks ``{}``, a list is empty, or a setting is of another kind.
    """

    def __init__(
        self,
        *,
        normal_states: Sequence[str] = vocabulary.NORMAL_STATES,
        abnormal_states: Sequence[str] = vocabulary.ABNORMAL_STATES,
        extra_normal_states: Mapping[str, Sequence[str]] | None = None,
        extra_abnormal_states: Mapping[str, Sequence[str]] | None = None,
        industrial_domains: Sequence[str] = vocabulary.INDUSTRIAL_DOMAINS,
        texture_domains: Sequence[str] = vocabulary.TEXTURE_DOMAINS,
        templates: Sequence[str] = vocabulary.TEMPLATES,
        class_names: Mapping[str, str] = vocabulary.CLASS_NAMES,
        texture_classes: Sequence[str] = vocabulary.TEXTURE_CLASSES,
        texture: bool | None = None,
        knowledge: bool | str = False,
    ) -> None:
        self.knowledge = read_knowledge(knowledge)
        self.extra_normal_states = _checked_extra_states("extra_normal_states", extra_normal_states)
        self.extra_abnormal_states = _checked_extra_states("extra_abnormal_states", extra_abnormal_states)
        self.normal_states = _checked_list("normal_states", normal_states, slot=True)
        self.abnormal_states = _checked_list("abnormal_states", abnormal_states, slot=True)
        self.industrial_domains = _checked_list("industrial_domains", industrial_domains)
        self.texture_domains = _checked_list("texture_domains", texture_domains)
        self.templates = _checked_list("templates", templates, slot=True)
        self.class_names = _checked_names(class_names)
        self.texture_classes = _checked_list("texture_classes", texture_classes) if texture_classes else ()
        if texture not in (None, True, False):
            raise ValueError(f"Prompt setting texture must be true, false or left out, got {texture!r}")
        self.texture = texture

    @classmethod
    def from_settings(cls, settings: PromptSettings | Mapping | None) -> "PromptBuilder":
        """Build from plain data, as it comes from YAML or the command line.

        Args:
            settings: Some of the constructor's arguments by name; ``None`` for the authors' prompts.

        Raises:
            ValueError: If a key is unknown (the closest known one is named) or a value is not usable.
        """
        settings = {key: value for key, value in (settings or {}).items() if value is not None}
        known = list(PromptSettings.__annotations__)
        for key in settings:
            if key not in known:
                hint = did_you_mean(key, known, f"known settings: {', '.join(known)}")
                raise ValueError(f"Unknown prompt setting {key!r}{hint}")
        return cls(**settings)

    def sentences(self, class_name: str) -> PromptSet:
        """All sentences for one class.

        Args:
            class_name: The class as the data set names it, such as ``"metal_nut"``.

        Returns:
            The sentences by polarity and state; repeated sentences are kept once per state.

        Raises:
            ValueError: If the name is empty.
        """
        if not class_name or not class_name.strip():
            raise ValueError("The class name is empty: give the name of the product, such as class_name='metal_nut'")
        class_name = class_name.strip()
        for fault in self.unmatched(class_name):
            logger.warning("%s", fault)
        texture = class_name in self.texture_classes if self.texture is None else self.texture
        name = self.class_names.get(class_name, class_name)
        domains = self.texture_domains if texture else self.industrial_domains

        def expand(states: Iterable[str], *extra: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
            own = (state for more in extra for key in ("*", class_name) for state in more.get(key, ()))
            phrases = (state.replace("{}", name) for state in (*states, *own))
            return {phrase: self._expand(phrase, domains) for phrase in phrases}

        normal = expand(self.normal_states, self.extra_normal_states)
        return PromptSet(name, texture, normal, expand(self.abnormal_states, self.extra_abnormal_states, self.knowledge))

    def unmatched(self, class_name: str) -> list[str]:
        """Settings for single classes of which none is for this one: meant for others, or misspelt.

        Args:
            class_name: The class as the data set names it.

        Returns:
            A sentence for each such setting, with the names that it has.
        """
        given = {
            "knowledge": self.knowledge,
            "extra_normal_states": self.extra_normal_states,
            "extra_abnormal_states": self.extra_abnormal_states,
            "class_names": self.class_names.keys() - vocabulary.CLASS_NAMES.keys(),
        }
        found = []
        for setting, names in given.items():
            if names and not {class_name, "*"} & set(names):
                listed = ", ".join(repr(name) for name in sorted(names))
                hint = did_you_mean(class_name, names)
                found.append(f"Prompt setting {setting} has nothing for {class_name!r}, only for {listed}{hint}")
        return found

    def _expand(self, phrase: str, domains: Sequence[str]) -> tuple[str, ...]:
        sentences = (_with_domain(template, domain).replace("{}", phrase) for domain in domains for template in self.templates)
        return tuple(dict.fromkeys(sentences))


def _with_domain(template: str, domain: str) -> str:
    article = "an" if domain[0].lower() in "aeiou" else "a"
    words = template.replace("{domain}", domain)
    if template.startswith("a {domain}"):
        return article + words[1:]
    return words.replace(f" a {domain}", f" {article} {domain}")


def _checked_names(names: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(names, Mapping):
        raise ValueError(f"Prompt setting class_names must map names of the data set to names in the sentences, got {names!r}")
    for key, value in names.items():
        _checked_list(f"class_names[{key!r}]", [value])
    return dict(names)


def _checked_extra_states(name: str, states: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    if states is not None and not isinstance(states, Mapping):
        raise ValueError(f"Prompt setting {name} must map class names to lists of states, got {states!r}")
    return {key: _checked_list(f"{name}[{key!r}]", value, slot=True) for key, value in (states or {}).items()}


def _checked_list(name: str, values: Sequence[str], *, slot: bool = False) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        what = "the single string" if isinstance(values, str) else type(values).__name__
        raise ValueError(f"Prompt setting {name} must be a list of strings, got {what} {values!r}")
    if not values:
        raise ValueError(f"Prompt setting {name} is empty: at least one entry is needed")
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"Prompt setting {name} has an entry that is not a non-empty string: {value!r}")
        if slot and "{}" not in value:
            what = "the state phrase" if name == "templates" else "the class name"
            raise ValueError(f"Prompt setting {name} has the entry {value!r} without '{{}}', where {what} goes")
    return tuple(values)
