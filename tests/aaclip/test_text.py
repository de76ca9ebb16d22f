import torch
import torch.nn.functional as F

from anoclip_anomalib.aaclip.text import AnchorTrainer, anchor, embed_anchors
from anoclip_anomalib.clip import embed_tokens, walk_text
from anoclip_anomalib.prompts.aaclip import sentences


def test_an_anchor_is_the_normalised_mean_of_unit_vectors():
    normal, abnormal = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([[0.0, -2.0]])
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]])
    torch.testing.assert_close(anchor(normal, abnormal), expected)


def test_anchors_of_test_time_are_those_of_the_training(tiny_clip, halves, tmp_path):
    clip, (text, _) = tiny_clip(), halves(reference=True)
    one, two = ["bottle"], ["dark bottle", "glass bottle"]
    with torch.no_grad():
        trained = AnchorTrainer(clip, [one, two])(text, torch.tensor([1, 0, 1]))
    assert trained.shape == (3, 2, 32)
    for index, descriptions in ((0, two), (1, one), (2, two)):
        expected = embed_anchors(clip, text, descriptions, cache_dir=tmp_path)
        torch.testing.assert_close(trained[index], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(trained.norm(dim=-1), torch.ones(3, 2))


def test_anchors_written_out(tiny_clip, halves, tmp_path):
    clip, (text, _) = tiny_clip(), halves(reference=True)
    normal, abnormal = sentences("pill")
    tokens = clip.tokenize([*normal, *abnormal])
    with torch.no_grad():
        encoded = walk_text(clip.text_tower, *embed_tokens(clip.text_tower, tokens), after_block=text.adapters, project=False)
        projected = F.normalize(F.leaky_relu(encoded @ text.projection.weight.T, 0.01), dim=-1)
    expected = F.normalize(torch.stack([projected[:6].mean(0), projected[6:].mean(0)]), dim=-1)
    torch.testing.assert_close(embed_anchors(clip, text, ["pill"], cache_dir=tmp_path), expected, atol=1e-6, rtol=1e-5)


def test_the_cache_tells_adapters_apart(tiny_clip, halves, tmp_path):
    first, second = (embed_anchors(tiny_clip(), halves(seed=s)[0], ["pill"], cache_dir=tmp_path) for s in (0, 1))
    assert not torch.allclose(first, second)
    again = embed_anchors(tiny_clip(), halves(seed=0)[0], ["pill"], cache_dir=tmp_path)
    assert torch.equal(first, again)
