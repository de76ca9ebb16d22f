"""CLIP as tensors in, tensors out. The only folder that knows open_clip."""

from anoclip_anomalib.clip.blocks import Hook, attention_output, own_precision
from anoclip_anomalib.clip.image_tower import LocalPath, Tap, project_tokens, walk_image
from anoclip_anomalib.clip.local_attention import LOCAL_ATTENTIONS, Attended, LocalAttention
from anoclip_anomalib.clip.text_encoder import TextEmbeddings, TextEncoder, TextMean, check_text_mean, embed_class
from anoclip_anomalib.clip.text_tower import TextTower, embed_tokens, walk_text
from anoclip_anomalib.clip.visual_encoder import CLASS_TOKEN, EncodedImages, VisualEncoder
from anoclip_anomalib.clip.weights import LoadedClip, WeightsUnavailableError, load_clip

__all__ = [
    "CLASS_TOKEN",
    "LOCAL_ATTENTIONS",
    "Attended",
    "EncodedImages",
    "Hook",
    "LoadedClip",
    "LocalAttention",
    "LocalPath",
    "Tap",
    "TextEmbeddings",
    "TextEncoder",
    "TextMean",
    "TextTower",
    "VisualEncoder",
    "WeightsUnavailableError",
    "attention_output",
    "check_text_mean",
    "embed_class",
    "embed_tokens",
    "load_clip",
    "own_precision",
    "project_tokens",
    "walk_image",
    "walk_text",
]
