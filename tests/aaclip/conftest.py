"""Adapters for the tiny architecture, and a source that draws squares."""

import numpy as np
import pytest
import torch

from anoclip_anomalib.aaclip.adapters import new_image_adapters, new_text_adapters
from anoclip_anomalib.aaclip.adapters_file import save_adapters


class Squares:
    """Grey noise, with a bright square on odd images."""

    categories = ("plate", "tile")
    in_pairs = False

    def __init__(self, images: int = 8, side: int = 64) -> None:
        self.images, self.side = images, side

    def __len__(self) -> int:
        return self.images

    def draw(self, epoch: int, index: int):
        rng = np.random.default_rng([3, epoch, index])
        image = rng.integers(60, 120, (self.side, self.side, 3)).astype(np.uint8)
        mask = np.zeros((self.side, self.side), bool)
        if index % 2:
            top, left = rng.integers(0, self.side // 2, 2)
            mask[top : top + self.side // 4, left : left + self.side // 4] = True
            image[mask] = 230
        return image, mask, self.categories[index % 4 // 2]


@pytest.fixture(scope="session")
def halves(tiny_clip):
    """(reference) -> a text and an image half of the tiny CLIP, far from their beginning."""

    def make(*, reference: bool = False, seed: int = 0):
        clip = tiny_clip()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            text = new_text_adapters(clip, reference=reference)
            image = new_image_adapters(clip, reference=reference)
            with torch.no_grad():
                for parameter in (*text.parameters(), *image.parameters()):
                    parameter.add_(0.05 * torch.randn_like(parameter))
        return text, image

    return make


@pytest.fixture(scope="session")
def adapters_file(tmp_path_factory, halves, facts):
    """(name, changes of the header) -> a file of adapters."""
    folder = tmp_path_factory.mktemp("adapters")

    def make(name: str = "a", *, reference: bool = False, run: int = 0, **changes) -> str:
        text, image = halves(reference=reference, seed=run)
        mode = "reference" if reference else "clean"
        return str(save_adapters(folder / f"{name}.safetensors", text, image, facts(mode=mode, **changes)))

    return make
