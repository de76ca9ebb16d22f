"""Domain-aware prompts: strings only."""

from anoclip_anomalib.prompts.builder import PromptBuilder, PromptSet, PromptSettings

__all__ = ["PromptBuilder", "PromptSet", "PromptSettings"]
