"""Test-time adaptation as a plain loop over images with torch modules, autograd and AdamW: the baseline of the speed table."""

import torch
import torch.nn.functional as F


def adapt_one_by_one(tokens: torch.Tensor, text: torch.Tensor, bank: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Adapt each image's tokens with the text-anchored adapter.

    Args:
        tokens: (B, L, D) patch tokens.
        text: (2, D) class embeddings.
        bank: (N, D) prompt bank.
        steps: Updates for each image.

    Returns:
        (B, L, D) adapted tokens.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        return torch.stack([_adapt(image.clone(), text.clone(), bank.clone(), steps) for image in tokens])


def _adapt(tokens: torch.Tensor, text: torch.Tensor, bank: torch.Tensor, steps: int) -> torch.Tensor:
    linear = torch.nn.Linear(tokens.shape[-1], len(bank), device=tokens.device)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-3)

    def adapter(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x + 0.5 * linear(F.normalize(x, dim=-1)).tanh() @ bank

    def probabilities(x: torch.Tensor) -> torch.Tensor:
        return (F.normalize(adapter(x), dim=-1) @ text.T).softmax(dim=-1)

    for _ in range(steps):
        clean, noisy = probabilities(tokens), probabilities(tokens + 0.055 * torch.randn_like(tokens))
        entropy = -(clean * clean.log()).sum(dim=-1).mean()
        loss = entropy + 0.5 * (-noisy[:, 1].log() - clean[:, 0].log()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return adapter(tokens)
