"""From the names of a backbone and its weights to a frozen CLIP."""

import copy
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, lru_cache, partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import open_clip
import torch
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained_from_url, get_pretrained_cfg
from open_clip.transformer import QuickGELU
from open_clip.version import __version__ as open_clip_version
from torch import nn

from anoclip_anomalib.clip.connection import HUB, hub_if_reachable, reachable
from anoclip_anomalib.clip.image_tower import SUPPORTED_TOWERS, check_visual
from anoclip_anomalib.clip.state_dict import SUFFIXES, WeightFileError, check_finite, read_state_dict, state_dict_digest

logger = logging.getLogger(__name__)

_BUNDLED = files("anoclip_anomalib") / "bundled" / "weights"
DEMO = "demo"
RANDOM = "random"
HF_HUB = "hf-hub:"
Activation = Literal["as_trained", "gelu", "quick_gelu"]
Precision = Literal["float32", "bfloat16", "float16"]
QUICK_GELU = "activation='quick_gelu' or an architecture named -quickgelu (QuickGELU)"
Built = TypeVar("Built", bound=nn.Module)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class WeightsUnavailableError(RuntimeError):
    """Weights were named that are neither on this machine nor could be downloaded; the message says what to do."""


@dataclass
class LoadedClip:
    """A frozen CLIP in float32 on the CPU, as it was loaded.

    Attributes:
        model: open_clip's model, in evaluation mode, without gradients.
        tokenize: Sentences -> (N, context) token ids.
        backbone: The architecture's name.
        pretrained: Where the weights came from: a tag, a file, ``"demo"`` or ``"random"``.
        digest: SHA-256 of the weights, to tell two sets of weights with one name apart; also of the activation where it is
            not the one they were trained with.
        activation: As it was asked for, see :func:`load_clip`.
    """

    model: nn.Module
    tokenize: Callable[[list[str]], torch.Tensor]
    backbone: str
    pretrained: str
    digest: str
    activation: Activation = "as_trained"
    _towers: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    def visual_tower(self, precision: str = "float32") -> nn.Module:
        """The image tower in ``"float32"``, ``"bfloat16"`` or ``"float16"``; each is made once and then shared.

        Raises:
            ValueError: If the precision is unknown.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"Unknown precision {precision!r}; choose one of {', '.join(map(repr, PRECISIONS))}")
        if precision not in self._towers:
            visual = self.model.visual
            self._towers[precision] = visual if precision == "float32" else copy.deepcopy(visual).to(PRECISIONS[precision])
        return self._towers[precision]

    @property
    def text_tower(self) -> nn.Module:
        """The text transformer: the model itself in open_clip's older layout."""
        return getattr(self.model, "text", self.model)

    @cached_property
    def architecture(self) -> str:
        """What decides results besides the weights: kinds of activation and numbers of heads. Two of one digest may differ."""
        modules = [*self.model.modules()]
        kinds = {type(one).__name__ for one in modules if type(one).__name__.endswith("LU")}
        heads = {one.num_heads for one in modules if isinstance(one, nn.MultiheadAttention)}
        return ", ".join([*sorted(kinds), *(f"{number} heads" for number in sorted(heads))])

    @property
    def provenance(self) -> dict[str, str]:
        """What to keep with a result: backbone, weights, their digest, another activation, and the version of open_clip."""
        facts = {"backbone": self.backbone, "pretrained": self.pretrained, "weights_digest": self.digest}
        chosen = {} if self.activation == "as_trained" else {"activation": self.activation}
        return facts | {"open_clip": open_clip_version} | chosen


def load_clip(
    backbone: str = "ViT-B-16-plus-240", pretrained: str | None = "laion400m_e32", *, activation: Activation = "as_trained"
) -> LoadedClip:
    """Load a CLIP, once per process; later calls with the same names return the same object.

    Args:
        backbone: An open_clip architecture with a ViT image tower, ``hf-hub:<organisation>/<name>``, or ``"demo"`` for
            the small encoder in this package.
        pretrained: An open_clip tag (downloaded when it is not in the cache), a local ``.safetensors``, ``.pt`` or ``.bin``
            file, or ``"random"`` for untrained weights (speed measurements). It has no meaning for ``hf-hub:`` and for
            ``backbone="demo"`` with any other value than ``"random"``.
        activation: Of both towers' MLPs. ``"as_trained"``: QuickGELU for OpenAI's tags and for architectures named
            ``-quickgelu``, else GELU; a local file does not tell which it needs. ``"gelu"`` or ``"quick_gelu"`` whatever the
            weights were trained with: some authors use OpenAI's weights with exact GELU (AA-CLIP, AdaCLIP, APRIL-GAN, MuSc),
            and what was trained on that does not fit QuickGELU.

    Returns:
        The frozen model with its tokenizer and the digest of its weights.

    Raises:
        ValueError: If the backbone, the tag or the activation is unknown (the closest names are listed), or it is not a
            supported ViT.
        FileNotFoundError: If the local weight file does not exist.
        WeightFileError: If the weights are damaged, not finite, unsafe, or made for another architecture.
        WeightsUnavailableError: If the weights must be downloaded and cannot be.
    """
    if activation not in get_args(Activation):
        raise ValueError(f"Unknown activation {activation!r}; choose one of {', '.join(map(repr, get_args(Activation)))}")
    stamp = None
    if pretrained is not None and _is_file_name(pretrained) and not backbone.startswith(HF_HUB) and backbone != DEMO:
        path = Path(pretrained).expanduser().resolve()
        if not path.is_file():
            raise FileNotFoundError(f"Weight file not found: {path}")
        pretrained, stamp = str(path), path.stat().st_mtime_ns
    return _load_clip(backbone, pretrained or "", activation, stamp)


def new_clip(config: dict[str, Any]) -> nn.Module:
    """A CLIP to be trained, its weights drawn by torch's random numbers.

    Args:
        config: Keyword arguments of ``open_clip.model.CLIP``.
    """
    return open_clip.model.CLIP(**config)


def whole_words() -> list[str]:
    """The words of more than six letters that CLIP's tokenizer has a token of their own for."""
    words = [token.removesuffix("</w>") for token in open_clip.SimpleTokenizer().encoder if token.endswith("</w>")]
    return [word for word in words if word.isalpha() and len(word) > 6]


@lru_cache(maxsize=2)
def _load_clip(backbone: str, pretrained: str, activation: Activation, file_stamp: int | None) -> LoadedClip:
    del file_stamp  # only part of the key: a file that was replaced is loaded again
    if backbone == DEMO:
        source = RANDOM if pretrained == RANDOM else DEMO
        model = seeded(0, lambda: new_clip(demo_config()))
        if source == DEMO:
            with as_file(_BUNDLED / "demo_clip.safetensors") as path:
                _load_into(lambda: model, path, DEMO)
    elif backbone.startswith(HF_HUB):
        with hub_if_reachable(HUB):
            model, source = _hub_model(backbone), backbone
    else:
        _check_backbone(backbone)
        model, source = _named_model(backbone, pretrained, activation), pretrained
    check_visual(model.visual)
    model.requires_grad_(requires_grad=False).eval()
    tokenizer = tokenizer_of(model) if backbone == DEMO else open_clip.get_tokenizer(backbone)
    state = model.state_dict()
    check_finite(state, f"CLIP {backbone} with weights {source}")
    digest = state_dict_digest(state)
    if activation != "as_trained" and _set_activation(model, activation):
        digest = hashlib.sha256(f"{digest} {activation}".encode()).hexdigest()
    logger.info("Loaded CLIP %s with weights %s, activation %s, SHA-256 %s", backbone, source, activation, digest)
    return LoadedClip(model, tokenizer, backbone, source, digest, activation)


def _set_activation(model: nn.Module, activation: Activation) -> bool:
    """Give a model that nobody else has yet another activation; whether that changed anything.

    open_clip's own switch cannot serve: up to 2.26 it builds OpenAI's weights with QuickGELU whatever it is told.
    """
    old, new = (nn.GELU, QuickGELU) if activation == "quick_gelu" else (QuickGELU, nn.GELU)
    places = [(module, name) for module in model.modules() for name, child in module.named_children() if type(child) is old]
    for module, name in places:
        setattr(module, name, new())
    return bool(places)


def _named_model(backbone: str, pretrained: str, activation: Activation) -> nn.Module:
    if pretrained == RANDOM:
        logger.warning("Untrained random weights for %s: the scores will mean nothing", backbone)
        return _untrained(backbone)
    if _is_file_name(pretrained):
        model = _load_into(partial(_untrained, backbone), Path(pretrained), backbone)
        if activation == "as_trained" and (get_pretrained_cfg(backbone, "openai") or {}).get("quick_gelu"):
            logger.warning("%s: a file does not tell its activation. GELU is used; OpenAI's need %s", pretrained, QUICK_GELU)
        return model
    tags = open_clip.list_pretrained_tags_by_model(backbone)
    if pretrained not in tags:
        close = get_close_matches(pretrained, tags, n=3) or tags
        known = f"or one of the tags: {', '.join(close)}" if tags else "(open_clip has no weights of its own for it)"
        raise ValueError(f"Unknown weights {pretrained!r} for {backbone}; name a local file {known}")
    config = get_pretrained_cfg(backbone, pretrained)
    own_file = _needs_own_file(pretrained, config)
    address = config["url"] if own_file or not config.get("hf_hub") else HUB
    try:
        if address != HUB and not _cached(address).is_file() and not reachable(address):
            raise ConnectionError(f"No connection to {address}")
        with hub_if_reachable(HUB if address == HUB else None):
            if own_file:
                return _load_into(partial(_untrained, backbone), Path(download_pretrained_from_url(address)), backbone)
            open_clip.factory.download_pretrained(config)  # before a large model is built
            return open_clip.create_model(backbone, pretrained=pretrained, force_quick_gelu=bool(config.get("quick_gelu")))
    except WeightFileError:
        raise
    except Exception as error:
        raise WeightsUnavailableError(_how_to_get(backbone, pretrained, config, error)) from error


def _needs_own_file(pretrained: str, config: dict[str, Any]) -> bool:
    """Whether open_clip >= 2.27 answers a tag with other weights from the Hub: e31 for e32 of ViT-B-16-plus-240."""
    return pretrained in config.get("url", "") and pretrained not in (config.get("hf_hub") or pretrained)


def _how_to_get(backbone: str, pretrained: str, config: dict[str, Any], error: Exception) -> str:
    reason = f"Weights {pretrained!r} of {backbone} are not on this machine and could not be downloaded ({error})."
    url, repository = config.get("url", ""), config.get("hf_hub", "")
    if _needs_own_file(pretrained, config) or not repository:
        return f"{reason} Download {url} and put it at {_cached(url)}, or anywhere and name that file as `pretrained`"
    page, _, file = repository.rpartition("/")
    file = file or "open_clip_model.safetensors"
    activation = f"{backbone}-quickgelu"
    if config.get("quick_gelu") and activation in open_clip.list_models():
        file += f" (these weights need backbone={activation!r} when they are named as a file)"
    return f"{reason} Download https://huggingface.co/{page} and name its file as `pretrained`: {file}"


def _cached(url: str) -> Path:
    """Where open_clip keeps a file from outside of the Hub."""
    return Path("~/.cache/clip").expanduser() / Path(url).name


def _hub_model(backbone: str) -> nn.Module:
    name = backbone.removeprefix(HF_HUB)
    try:
        return open_clip.create_model(backbone, require_pretrained=True)
    except Exception as error:
        raise WeightsUnavailableError(
            f"Could not get {backbone} from the Hugging Face Hub ({error}). Without a connection, download "
            f"https://huggingface.co/{name} into the Hub's cache elsewhere and copy the cache, or name an open_clip "
            "architecture as `backbone` and the local weight file as `pretrained`"
        ) from error


def demo_config() -> dict[str, Any]:
    """The bundled encoder's architecture, in open_clip's words."""
    return dict(json.loads((_BUNDLED / "demo_clip.json").read_text(encoding="utf-8")))


def _untrained(backbone: str) -> nn.Module:
    return seeded(0, lambda: open_clip.create_model(backbone, pretrained=None))


def seeded(seed: int, build: Callable[[], Built]) -> Built:
    """Initial weights from a seed, without touching the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _load_into(build: Callable[[], nn.Module], path: Path, backbone: str) -> nn.Module:
    state = read_state_dict(path)  # a file that cannot be used is told before a large model is built
    model = build()
    if hasattr(model, "text") and "positional_embedding" in state:
        state = convert_to_custom_text_state_dict(state)
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(model.logit_scale.shape)
    own = model.state_dict()
    differing = [name for name in state if name in own and state[name].shape != own[name].shape]
    shapes = [f"{name}: {tuple(state[name].shape)} for {tuple(own[name].shape)}" for name in differing]
    kinds = {"other shape": shapes, "missing": sorted(own.keys() - state.keys()), "unknown": sorted(state.keys() - own.keys())}
    faults = [
        f"{what} {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in kinds.items()
        if names
    ]
    if faults:
        raise WeightFileError(f"Weight file {path} was not made for {backbone}: {'; '.join(faults)}")
    model.load_state_dict(state)
    return model


def _check_backbone(backbone: str) -> None:
    known = open_clip.list_models()
    if backbone not in known:
        close = get_close_matches(backbone, [DEMO, *known], n=3, cutoff=0.4)
        hint = f"closest names: {', '.join(close)}" if close else f"known: {DEMO}, {', '.join(known)}"
        raise ValueError(f"Unknown backbone {backbone!r}; {hint}")
    fault = _unreadable_tower(open_clip.get_model_config(backbone)["vision_cfg"])
    if fault:
        # Said before anything is downloaded.
        raise ValueError(f"Backbone {backbone} has {fault}; {SUPPORTED_TOWERS}")


def _unreadable_tower(vision: dict[str, Any]) -> str | None:
    """Why the image tower of an architecture cannot serve, from its configuration; ``None`` if nothing speaks against it."""
    trunk = vision.get("timm_model_name") or ("ResNet" if isinstance(vision.get("layers"), list) else None)
    if trunk:
        return f"the image tower {trunk}, not open_clip's VisionTransformer"
    if vision.get("attentional_pool"):
        return "an image tower with attentional pooling instead of a class token"
    if vision.get("pool_type", "tok") != "tok" or vision.get("global_average_pool"):
        return "an image tower that averages its patches instead of using a class token"
    return None


def tokenizer_of(model: nn.Module) -> Callable[[list[str]], torch.Tensor]:
    """CLIP's own tokenizer with a model's context length: sentences -> (N, context) token ids."""
    tokenizer = open_clip.SimpleTokenizer()
    return lambda sentences: tokenizer(sentences, context_length=model.context_length)


def _is_file_name(pretrained: str) -> bool:
    return pretrained.endswith(SUFFIXES) or os.sep in pretrained
