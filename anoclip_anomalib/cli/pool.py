"""``anoclip pool build``: photographs without labels become a pool that single images are scored against."""

import argparse
from pathlib import Path

from anoclip_anomalib.cli.early_checks import InputError, no_such_path
from anoclip_anomalib.cli.parser import Parser, refused

HELP = "Build a pool of unlabelled photographs, for MutualClip on single images."

_NOT_OF_THE_MODEL = ("command", "folder", "out", "batch_size")


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(prog="anoclip pool", description=HELP)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="encode the photographs of a folder and have them score each other")
    build.add_argument("folder", help="photographs, most of them of good parts")
    build.add_argument("--out", required=True, metavar="FILE", help="where the pool goes, ending in .safetensors")
    build.add_argument("--backbone", default="ViT-B-16-plus-240", help="open_clip architecture, or demo")
    build.add_argument("--pretrained", help="its weights: tag or file")
    build.add_argument("--image_size", type=int, help="side of the square that images are resized to")
    build.add_argument("--class_name", help="fuse with text scores for this product (then give --model.with_text too)")
    build.add_argument("--tiling", choices=("none", "square"), help="cut square tiles of non-square photographs")
    build.add_argument("--depths", type=int, nargs="+", help="blocks whose patches are compared")
    build.add_argument("--neighbourhoods", type=int, nargs="+", help="sides of their neighbourhoods, in patches")
    build.add_argument("--lowest", type=float, help="share of the other images whose distances are averaged")
    build.add_argument("--memory_gib", type=float, help="features held in memory; beyond that they go to disk")
    build.add_argument("--features_folder", help="where they lie then")
    build.add_argument("--batch_size", type=int, default=8)
    return parser


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code (2: bad input)."""
    args = build_parser().parse_args(argv)
    folder, out = Path(args.folder), Path(args.out)
    try:
        if not folder.is_dir():
            raise InputError(no_such_path(folder, folder=True))
        if out.suffix != ".safetensors":
            raise InputError(f"--out {out} must end in .safetensors")
        if not out.absolute().parent.is_dir():
            raise InputError(f"there is no folder {out.absolute().parent} for --out")
        if args.batch_size < 1:
            raise InputError(f"--batch_size {args.batch_size} must be at least 1")
        count = _build(args, folder, out)
    except (ValueError, OSError, RuntimeError) as error:
        return refused(f"anoclip pool: error: {error}")
    print(f"wrote {out}: {count} images, {out.stat().st_size / 2**20:.1f} MiB")
    return 0


def _build(args: argparse.Namespace, folder: Path, out: Path) -> int:
    import torch
    from torch.utils.data import DataLoader

    from anoclip_anomalib import MutualClip
    from anoclip_anomalib.data import FolderImages
    from anoclip_anomalib.mutual.run import score_pool

    given = {name: value for name, value in vars(args).items() if name not in _NOT_OF_THE_MODEL and value is not None}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = MutualClip(**given, with_text=args.class_name is not None, visualizer=False).eval().to(device)
    images = FolderImages(folder, transform=lambda image: module.pre_processor.transform(image[None])[0])

    @torch.inference_mode()
    def encode(add) -> None:  # noqa: ANN001
        for batch in DataLoader(images, batch_size=args.batch_size, collate_fn=images.collate_fn):
            add(module.model.encode(batch.image.to(device)))

    score_pool(module.model, len(images), encode, budget=module.budget, folder=module.features_folder, device=device, save=out)
    return len(images)
