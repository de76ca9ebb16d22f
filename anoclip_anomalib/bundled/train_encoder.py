"""Trains the bundled encoder: a small CLIP on generated images and captions, with the contrastive loss alone.

    python -m anoclip_anomalib.bundled.train_encoder --out results/encoder

No mask and no label enters besides the caption. The loss is CLIP's, in both directions, with every caption that fits
an image as a positive. It is taken twice: against captions with the category's name, and against captions with a
general or random name, which fit every image of their state.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from anoclip_anomalib.bundled.captions import Captioner
from anoclip_anomalib.bundled.pairs import CATEGORY_NAMES, Chunk, PairChunks
from anoclip_anomalib.bundled.weights_file import save_weights
from anoclip_anomalib.clip import embed_tokens, walk_text
from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.clip.patch_embedding import interpolate_position
from anoclip_anomalib.clip.weights import new_clip, tokenizer_of, whole_words
from anoclip_anomalib.versions import commit

MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
SIZE = 64  # side of the training images in pixels
NATIVE = 128  # the image size that the saved encoder takes as its own; its position embedding is resized to it
WARMUP = 60  # steps of rising learning rate
POOL = 60  # chunks of images kept for drawing batches
REFRESH = 40  # steps between new chunks


def model_config(image_size: int) -> dict:
    """The encoder as an open_clip model configuration."""
    vision = {"image_size": image_size, "patch_size": 8, "layers": 12, "width": 96, "head_width": 48, "mlp_ratio": 2.0}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3}
    return {"embed_dim": 64, "vision_cfg": {**vision, "ls_init_value": 1.0}, "text_cfg": text}


def shape_depth(model: nn.Module) -> None:
    """Set LayerScale's starting values: early blocks mostly transform each patch, late ones mostly gather (in place).

    Without it the class token of so small a network gathers in its first blocks and decides in its own MLPs, and the values
    of the patches, which the local path reads, say little about the caption.
    """
    blocks = model.visual.transformer.resblocks
    for block, depth in zip(blocks, torch.linspace(0, 1, len(blocks)).tolist(), strict=True):
        torch.nn.init.constant_(block.ls_1.gamma, 0.1 + 0.9 * depth)
        torch.nn.init.constant_(block.ls_2.gamma, 1.0 - 0.9 * depth)


def multi_positive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Contrastive loss in both directions; ``logits`` and ``positive`` (bool) are (images, captions).

    Each row's and each column's target is uniform over its positives.
    """
    weight = positive.float()
    over_captions = (weight / weight.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    over_images = (weight / weight.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return -(over_captions + over_images) / 2


class Embeddings(nn.Module):
    """Both towers in one call, so that DistributedDataParallel sees all parameters.

    Args:
        model: The CLIP.
        compiled: ``torch.compile`` the image tower (needs a C++ compiler).
    """

    def __init__(self, model: nn.Module, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        self.visual = torch.compile(model.visual, dynamic=False) if compiled else model.visual

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit image embeddings (B, D) and text embeddings (N, D), float32, and the scale of their cosines."""
        texts = walk_text(self.model, *embed_tokens(self.model, tokens))
        image_embedding = functional.normalize(self.visual(images).float(), dim=-1)
        return image_embedding, functional.normalize(texts.float(), dim=-1), self.model.logit_scale.exp()


class PairPool:
    """A sliding window over the stream of chunks, from which augmented batches are drawn."""

    def __init__(self, chunks: Iterator[Chunk], capacity: int) -> None:
        self.chunks = chunks
        self.pool: deque[Chunk] = deque(maxlen=capacity)
        self.refresh()

    def refresh(self) -> None:
        """Take in the next chunk; the oldest one leaves a full pool."""
        self.pool.append(next(self.chunks))

    def batch(self, rng: np.random.Generator, pairs: int) -> tuple[Tensor, np.ndarray]:
        """``pairs`` pairs in random orientation: images (2 * pairs, 3, S, S), normal ones first; categories (pairs,)."""
        images, categories = [], []
        for _ in range(pairs):
            chunk = self.pool[int(rng.integers(len(self.pool)))]
            index = int(rng.integers(len(chunk.category)))
            pair = np.rot90(chunk.images[index], int(rng.integers(4)), (1, 2))
            if rng.random() < 0.5:
                pair = pair[:, :, ::-1]
            if rng.random() < 0.3:
                pair = pair[..., rng.permutation(3)]
            images.append(pair)
            categories.append(chunk.category[index])
        stacked = torch.from_numpy(np.stack(images, 1).reshape(2 * pairs, *images[0].shape[1:]))
        return (stacked.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD, np.array(categories)


def grow_positions(state: dict[str, Tensor], patches: int) -> None:
    """Resize the vision tower's position embedding (1 + n^2, width) in ``state`` to ``patches``^2 patches, in place."""
    name = "visual.positional_embedding"
    side = round((len(state[name]) - 1) ** 0.5)
    state[name] = interpolate_position(state[name], (side, side), (patches, patches))


def parameter_groups(model: nn.Module, peak: float) -> list[dict]:
    """Parameters with their learning rate and weight decay.

    Only matrices of the vision tower decay; the scale learns faster, as it has far to go in a short training.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if name != "logit_scale"}
    decaying = {name for name, parameter in named.items() if name.startswith("visual.") and parameter.ndim >= 2}
    return [
        {"params": [named[name] for name in named if name in decaying], "lr": peak, "weight_decay": 0.05},
        {"params": [named[name] for name in named if name not in decaying], "lr": peak, "weight_decay": 0.0},
        {"params": [model.logit_scale], "lr": 2 * peak, "weight_decay": 0.0},
    ]


def train(model: nn.Module, captioner: Captioner, args: argparse.Namespace, save: Callable[[str], None]) -> None:
    """Train ``model`` in this process; ``save(progress)`` is called every ``args.save_every`` seconds and at the end.

    Each process has images and captions of its own; DistributedDataParallel averages their gradients.
    """
    rank = distributed.get_rank()
    rng = np.random.default_rng([args.seed, SIZE, 1, rank])
    count = POOL + args.steps // REFRESH + 2
    easing = int(args.eased * args.steps / REFRESH)
    chunks = PairChunks(1000 * args.seed + rank, SIZE, args.chunk_pairs, count, easing, args.close_ups)
    prefetch = 4 if args.workers else None
    loader = DataLoader(chunks, batch_size=None, num_workers=args.workers, prefetch_factor=prefetch)
    pool = PairPool(iter(loader), POOL)
    optimizer = torch.optim.AdamW(parameter_groups(model, args.peak), betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 0.01 + 0.495 * (1 + np.cos(np.pi * step / args.steps)))
    )
    towers, tokenize = DistributedDataParallel(Embeddings(model, args.compile)), tokenizer_of(model)
    started = saved = time.monotonic()
    meters = {"named": 0.0, "generic": 0.0, "state": 0.0}
    abnormal: np.ndarray = np.repeat([False, True], args.pairs)
    for step in range(args.steps):
        if step % REFRESH == 0:
            pool.refresh()
        images, category = pool.batch(rng, args.pairs)
        category = np.tile(category, 2)
        named = [captioner.draw(rng, CATEGORY_NAMES[c], a) for c, a in zip(category, abnormal, strict=True)]
        generic_state = np.arange(args.pairs) % 2 == 1
        generic = [captioner.draw_generic(rng, bool(a)) for a in generic_state]
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            image_embedding, text_embedding, scale = towers(images, tokenize(named + generic))
        logits = scale * image_embedding @ text_embedding.T
        same_state = torch.from_numpy(abnormal[:, None] == abnormal[None])
        same_category = torch.from_numpy(category[:, None] == category[None])
        generic_positive = torch.from_numpy(abnormal[:, None] == generic_state[None])
        named_logits, generic_logits = logits[:, : len(named)], logits[:, len(named) :]
        named_loss = multi_positive_loss(named_logits, same_state & same_category)
        generic_loss = multi_positive_loss(generic_logits, generic_positive)
        optimizer.zero_grad(set_to_none=True)
        (named_loss + args.generic_weight * generic_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(100)))
            margin = generic_logits[:, 1::2].mean(1) - generic_logits[:, 0::2].mean(1)
            correct = (margin[args.pairs :] > margin[: args.pairs]).float().mean()
        for name, value in zip(meters, (named_loss, generic_loss, correct), strict=True):
            meters[name] += float(value.detach()) / args.log_every
        if rank == 0 and (step + 1) % args.log_every == 0:
            seconds = time.monotonic() - started
            speed = (step + 1) * distributed.get_world_size() * 2 * args.pairs / seconds
            means = f"named {meters['named']:.3f} generic {meters['generic']:.3f} pairs right {meters['state']:.3f}"
            pace = f"scale {float(scale.detach()):.1f} {speed:.0f} images/s {seconds:.0f} s"
            print(f"step {step + 1}/{args.steps} {means} {pace}", flush=True)
            meters = dict.fromkeys(meters, 0.0)
        if rank == 0 and time.monotonic() - saved > args.save_every:
            save(f"step {step + 1} of {args.steps}")
            saved = time.monotonic()
    if rank == 0:
        save("complete")


def main(argv: list[str] | None = None) -> int:
    """Train and write ``demo_clip.safetensors`` and ``demo_clip.json`` into ``--out``."""
    parser = argparse.ArgumentParser(description="Train the bundled demonstration encoder on generated images.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights; checkpoints overwrite each other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--pairs", type=int, default=16, help="pairs in a process's batch")
    parser.add_argument("--peak", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--eased", type=float, default=0.2, help="share of the training over which defects get harder")
    parser.add_argument("--close-ups", type=float, default=0.6, help="share of the images that show a defect's surroundings")
    parser.add_argument("--generic-weight", type=float, default=2.0, help="weight of the captions without the category's name")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw images, for each process")
    parser.add_argument("--processes", type=int, default=2, help="training processes; part of what decides the result")
    parser.add_argument("--chunk-pairs", type=int, default=256, help="pairs in a chunk of images drawn together")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action="store_true", help="torch.compile the vision tower (needs a C++ compiler)")
    parser.add_argument("--log-every", type=int, default=25)
    parser.add_argument("--save-every", type=float, default=180, help="seconds between checkpoints")
    args = parser.parse_args(argv)
    words = sys.argv[1:] if argv is None else argv
    provenance = {
        "command": " ".join(["python -m anoclip_anomalib.bundled.train_encoder", *words]),
        "commit": commit() or "unknown",
        "versions": json.dumps({"torch": torch.__version__, "numpy": np.__version__, "opencv": cv2.__version__}),
    }
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_train, (args, provenance, f"file://{folder}/rendezvous"), nprocs=args.processes)
    return 0


def _train(rank: int, args: argparse.Namespace, provenance: dict[str, str], meeting: str) -> None:
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=args.processes)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # one process for each core: threads that wait for each other stall on a busy machine
    cv2.setNumThreads(1)
    captioner = Captioner(whole_words())
    model = new_clip(model_config(SIZE))
    shape_depth(model)

    def save(progress: str) -> None:
        state = dict(model.state_dict())
        config = model_config(NATIVE)
        grow_positions(state, NATIVE // config["vision_cfg"]["patch_size"])
        save_weights(args.out, state, config, {**provenance, "progress": progress})

    train(model, captioner, args, save)
    distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
