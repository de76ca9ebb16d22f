"""Learned weights of every method for the tiny architecture, far from their beginning."""

import pytest
import torch

from anoclip_anomalib.promptlearning.hybrid_prompts import HybridLearner
from anoclip_anomalib.promptlearning.linear_heads import LinearHeads
from anoclip_anomalib.promptlearning.prompt_learner import PromptLearner
from anoclip_anomalib.promptlearning.prompts_file import save_prompts

TAPS = (3, 6, 9, 12)


@pytest.fixture(scope="session")
def learner():
    """Method -> what it learns, for the tiny CLIP (image width 64, text width 64, joint 32, 12 and 2 blocks)."""

    def make(method: str, seed: int = 0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if method == "adaclip":
                own = HybridLearner(64, 64, 32, TAPS, (4, 2))
            elif method == "april-gan":
                own = LinearHeads(64, 32, TAPS)
            else:
                own = PromptLearner(64, deep_sets=1)
            with torch.no_grad():
                for parameter in own.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return own.requires_grad_(requires_grad=False)

    return make


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory, learner, facts):
    """(method, name, changes of the header) -> a file of learned weights."""
    folder = tmp_path_factory.mktemp("prompts")

    def make(method: str = "anomalyclip", name: str = "a", seed: int = 0, **changes) -> str:
        settings = {"taps": list(TAPS)} if method in ("adaclip", "april-gan") else {}
        header = facts(method=method, settings=settings, **changes)
        return str(save_prompts(folder / f"{method}-{name}.safetensors", learner(method, seed), header))

    return make


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
