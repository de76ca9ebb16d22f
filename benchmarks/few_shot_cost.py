"""What comparing with 16 normal images costs beside the encoder alone: 240 px, ViT-B-16-plus-240, one thread, random weights.

python benchmarks/few_shot_cost.py
"""

import time

import torch

from anoclip_anomalib import AnoClipModel


def seconds(action, repeats: int = 3) -> float:  # noqa: ANN001
    """The least CPU time of several runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print both times and their ratio."""
    torch.set_num_threads(1)
    model = AnoClipModel(backbone="ViT-B-16-plus-240", pretrained="random").eval()
    width = model.visual_encoder.visual.output_dim
    model.text_embeddings = torch.nn.functional.normalize(torch.randn(2, width), dim=-1)
    model.class_name = "object"
    with torch.inference_mode():
        image = torch.randn(1, 3, 240, 240)
        alone = seconds(lambda: model(image))
        described = [model.describe_normal(torch.randn(1, 3, 240, 240))[0] for _ in range(2)] * 8
        model.reference.remember(described, [[]] * 16, keep_copies=False)
        with_images = seconds(lambda: model(image))
    size = model.reference.size_in_bytes / 2**20
    print(f"encoder {alone:.3f} s, with 16 normal images {with_images:.3f} s: ratio {with_images / alone:.2f}; {size:.0f} MiB")


if __name__ == "__main__":
    main()
