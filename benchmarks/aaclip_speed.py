"""AA-CLIP's training step and its encoder against the same in plain open_clip modules, on the same random weights.

    python benchmarks/aaclip_speed.py                                   # ViT-L-14 at 518 pixels, batches of 2
    python benchmarks/aaclip_speed.py --backbone ViT-B-16 --image-size 224 --pairs 3   # where memory or time is short

The plain step is what a user would write: open_clip's own blocks one after another, an adapter (``nn.Linear``) behind the
first ones, the four projections, the same losses, Adam. Both steps run in turn in one process; a row's ratio is the median
of the pairs' ratios; with ``--clock cpu`` it is that of the processor's time, which other processes on a busy machine hardly
change. Peak memory is that of a process of its own for each way. The exit code is 1 when a limit is missed.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.aaclip.adapters import default_taps, new_image_adapters
from anoclip_anomalib.aaclip.settings import IMAGE_STAGE
from anoclip_anomalib.aaclip.training import ImageStage, detection_loss
from anoclip_anomalib.clip import LoadedClip, Tap, load_clip, walk_image
from anoclip_anomalib.running.timing import PeakMemory
from anoclip_anomalib.zeroshot.losses import segmentation_loss
from anoclip_anomalib.zeroshot.training import Batch

if __package__:
    from benchmarks.speed import Row, compare
else:  # run as a script
    from speed import Row, compare

STEP_LIMIT, ENCODER_LIMIT = 1.1, 1.15
WAYS = ("plain", "ours", "checkpointing")


class PlainModel(nn.Module):
    """The second stage's model around open_clip's vision transformer, whose own blocks are called."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        depth, width, embed = len(visual.transformer.resblocks), visual.ln_post.weight.shape[0], visual.output_dim
        self.visual = [visual]
        self.taps = default_taps(depth)
        self.adapters = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(min(max(depth // 4, 6), depth))])
        self.segmentation = nn.ModuleList([nn.Linear(width, embed, bias=False) for _ in self.taps])
        self.detection = nn.Linear(width, embed, bias=False)

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Unit patch features of every level and the detection vector."""
        visual = self.visual[0]
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
        x = visual.ln_pre(x)
        tapped = []
        for number, block in enumerate(visual.transformer.resblocks, start=1):
            x = block(x)
            if number <= len(self.adapters):
                adapted = F.leaky_relu(self.adapters[number - 1](x))
                adapted = adapted * x.norm(dim=-1, keepdim=True) / adapted.norm(dim=-1, keepdim=True)
                x = 0.1 * adapted + 0.9 * x
            if number in self.taps:
                tapped.append(visual.ln_post(x[:, 1:]))
        levels = [F.normalize(linear(tap), dim=-1) for linear, tap in zip(self.segmentation, tapped, strict=True)]
        return levels, F.normalize(self.detection(tapped[-1]), dim=-1).mean(dim=1)


def plain_step(clip: LoadedClip, batch: Batch, anchors: torch.Tensor) -> Callable[[], None]:
    """A training step as a user would write it."""
    model = PlainModel(clip.model.visual)
    optimizer = torch.optim.Adam(model.parameters(), lr=IMAGE_STAGE.lr, betas=IMAGE_STAGE.betas)
    size = batch["image"].shape[-2:]

    def step() -> None:
        levels, detection = model(batch["image"])
        own = anchors[batch["class_index"]]
        loss = detection_loss(detection, own, batch["label"])
        side = int(levels[0].shape[1] ** 0.5)
        for level in levels:
            logits = 100 * (level @ own.mT).mT.unflatten(2, (side, side))
            loss = loss + segmentation_loss(
                F.interpolate(logits, size=size, mode="bilinear", align_corners=True).softmax(dim=1), batch["mask"]
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_step(clip: LoadedClip, batch: Batch, anchors: torch.Tensor, *, checkpointing: bool = False) -> Callable[[], None]:
    """The same step by the training's own module."""
    stage = ImageStage(clip, new_image_adapters(clip, reference=True), anchors, IMAGE_STAGE, checkpointing=checkpointing)
    optimizer = torch.optim.Adam(stage.part.parameters(), lr=IMAGE_STAGE.lr, betas=IMAGE_STAGE.betas)

    def step() -> None:
        loss = torch.stack(list(stage.losses(batch, stage.part).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def example(clip: LoadedClip, size: int, count: int) -> tuple[Batch, torch.Tensor]:
    """A batch with masks, and anchors of one class."""
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randn(count, 3, size, size, generator=generator),
        "mask": (torch.rand(count, size, size, generator=generator) > 0.99).float(),
        "label": torch.arange(count) % 2,
        "class_index": torch.zeros(count, dtype=torch.long),
    }
    return batch, F.normalize(torch.randn(1, 2, clip.model.visual.output_dim, generator=generator), dim=-1)


def load(args: argparse.Namespace) -> LoadedClip:
    """The backbone with random weights and its position embedding fitted to the image size once, as open_clip does it."""
    clip = load_clip(args.backbone, "random")
    visual = clip.model.visual
    side = args.image_size // visual.patch_size[0]
    if visual.grid_size != (side, side):
        from anoclip_anomalib.clip.patch_embedding import interpolate_position

        fitted = interpolate_position(visual.positional_embedding, visual.grid_size, (side, side))
        visual.positional_embedding = nn.Parameter(fitted, requires_grad=False)
        visual.grid_size, visual.image_size = (side, side), (args.image_size, args.image_size)
    return clip


def memory(args: argparse.Namespace, way: str) -> float:
    """Peak memory in MiB of a process that makes two steps, less what it had before them."""
    words = [sys.executable, __file__, "--memory-of", way, "--backbone", args.backbone]
    words += ["--image-size", str(args.image_size), "--batch", str(args.batch)]
    return float(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def measure_memory(args: argparse.Namespace) -> float:
    clip = load(args)
    batch, anchors = example(clip, args.image_size, args.batch)
    if args.memory_of == "plain":
        step = plain_step(clip, batch, anchors)
    else:
        step = our_step(clip, batch, anchors, checkpointing=args.memory_of == "checkpointing")
    with PeakMemory() as peak:
        step()
        step()
    return peak.gpu_peak_mib or peak.cpu_extra_mib


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="ViT-L-14")
    parser.add_argument("--image-size", type=int, default=518)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--no-memory", action="store_true", help="leave the processes that measure memory out")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(json.dumps(measure_memory(args)))
        return 0
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    clip = load(args)
    batch, anchors = example(clip, args.image_size, args.batch)
    what = f"{args.backbone} at {args.image_size}, batch {args.batch}, {torch.get_num_threads()} thread(s)"
    rows: list[Row] = [
        compare(
            f"training step, {what}",
            our_step(clip, batch, anchors),
            plain_step(clip, batch, anchors),
            limit=STEP_LIMIT,
            pairs=args.pairs,
            clock=clock,
        )
    ]
    half = new_image_adapters(clip, reference=True)
    taps = [Tap(block=block, project=False) for block in half.taps]

    @torch.inference_mode()
    def encode() -> None:
        half.project(walk_image(clip.model.visual, batch["image"], taps, after_block=half.adapters)[0])

    @torch.inference_mode()
    def plain() -> None:
        clip.model.encode_image(batch["image"])

    rows.append(compare(f"encoder, {what}", encode, plain, limit=ENCODER_LIMIT, pairs=2 * args.pairs, clock=clock))
    for row in rows:
        print(
            f"{row.name}: {row.ours:.3f} s, open_clip {row.theirs:.3f} s, ratio {row.ratio:.3f} (limit {row.limit})", flush=True
        )
    holds = all(row.holds for row in rows)
    if not args.no_memory:
        peaks = {way: memory(args, way) for way in WAYS}
        print(", ".join(f"{way} {peak:.0f} MiB" for way, peak in peaks.items()))
        holds = holds and peaks["checkpointing"] < peaks["plain"]
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
