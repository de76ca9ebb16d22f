"""The words of AnoCLIP's prompts, as data (authors' ``prompt_ensemble.py``; paper section on domain-aware prompts).

``{}`` is the class name in a state and the state phrase in a template; ``{domain}`` is a domain noun phrase.
"""

NORMAL_STATES: tuple[str, ...] = (
    *("normal {}", "flawless {}", "perfect {}", "unblemished {}"),
    *("{} without flaw", "{} without defect", "{} without damage"),
)
ABNORMAL_STATES: tuple[str, ...] = (
    *("damaged {}", "abnormal {}", "imperfect {}", "blemished {}"),
    *("{} with flaw", "{} with defect", "{} with damage"),
)

INDUSTRIAL_DOMAINS: tuple[str, ...] = ("industrial photo", "industrial image", "manufacturing image")
TEXTURE_DOMAINS: tuple[str, ...] = ("industrial photo", "textural photo", "surface picture")

_ADJECTIVES = ("cropped", "close-up", "bright", "dark", "jpeg corrupted", "blurry")
_SKELETONS = (
    *(f"a {adjective} {{domain}} of ARTICLE {{}}" for adjective in _ADJECTIVES),
    "a {domain} of ARTICLE {}",
    "a {domain} of ARTICLE small {}",
    "a {domain} of ARTICLE large {}",
    "a {domain} of ARTICLE {} for visual inspection",
    "a {domain} of ARTICLE {} for anomaly detection",
)
TEMPLATES: tuple[str, ...] = tuple(skeleton.replace("ARTICLE", article) for skeleton in _SKELETONS for article in ("a", "the"))

TEXTURE_CLASSES: tuple[str, ...] = ("carpet", "leather", "grid", "tile", "wood")

CLASS_NAMES: dict[str, str] = {"macaroni1": "macaroni", "macaroni2": "macaroni"}
