"""CLIP as tensors in, tensors out. The only folder that knows open_clip."""

from anoclip_anomalib.clip.local_attention import LOCAL_ATTENTIONS, LocalAttention
from anoclip_anomalib.clip.text_encoder import TextEmbeddings, TextEncoder, TextMean, check_text_mean, embed_class
from anoclip_anomalib.clip.visual_encoder import EncodedImages, VisualEncoder
from anoclip_anomalib.clip.weights import LoadedClip, WeightsUnavailableError, load_clip

__all__ = [
    "LOCAL_ATTENTIONS",
    "EncodedImages",
    "LoadedClip",
    "LocalAttention",
    "TextEmbeddings",
    "TextEncoder",
    "TextMean",
    "VisualEncoder",
    "WeightsUnavailableError",
    "check_text_mean",
    "embed_class",
    "load_clip",
]
