import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from anoclip_anomalib.clip import WeightsUnavailableError
from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.clip.state_dict import WeightFileError
from anoclip_anomalib.promptlearning.second_encoder import SecondEncoder, similarity_weights


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = timm.create_model("test_vit4", num_classes=0, dynamic_img_size=True)
    path = tmp_path_factory.mktemp("second") / "vit.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path, model.eval()


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_features_are_timms_of_images_in_0_to_1(file, grid):
    path, model = file
    pixels = torch.rand(2, 3, grid[0] * 16, grid[1] * 16, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    found = SecondEncoder("test_vit4", path)((pixels - mean) / std, grid)
    tokens = model.forward_features((pixels.clamp(0, 1) - 0.5) / 0.5)[:, 1:]
    torch.testing.assert_close(found, F.normalize(tokens, dim=-1), atol=1e-5, rtol=0)


def test_images_of_another_patch_size_are_fitted_to_the_grid(file):
    found = SecondEncoder("test_vit4", file[0])(torch.zeros(1, 3, 42, 56), (3, 4))
    assert found.shape == (1, 12, 96)


def test_weights_leave_out_what_resembles_less_than_usual():
    features = F.normalize(torch.tensor([[[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]]), dim=-1)
    weights = similarity_weights(features)[0, 0]
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(4))
    assert float(weights[0, 2]) == float(weights[1, 3]) == 0
    cosine = features[0] @ features[0].T
    kept = (3 * (cosine[0, :2] - 1.2 * cosine.mean())).exp()
    torch.testing.assert_close(weights[0, :2], kept / kept.sum())


def test_patches_that_are_all_alike_keep_to_themselves():
    weights = similarity_weights(torch.ones(2, 5, 3) / 3**0.5)
    assert torch.equal(weights, torch.eye(5).expand(2, 1, 5, 5))


def test_the_mean_is_of_the_image_or_of_the_batch():
    features = F.normalize(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    features[1] = F.normalize(torch.ones(6, 4) + 0.3 * features[1], dim=-1)
    torch.testing.assert_close(similarity_weights(features)[:1], similarity_weights(features[:1]))
    assert not torch.allclose(similarity_weights(features, "batch")[:1], similarity_weights(features[:1], "batch"))


def test_bad_names_and_files(file, tmp_path):
    with pytest.raises(ValueError, match="timm has no model 'dinov9'"):
        SecondEncoder("dinov9")
    with pytest.raises(WeightsUnavailableError, match="huggingface.co/timm/test_vit4"):
        SecondEncoder("test_vit4")
    with pytest.raises(WeightFileError, match="not made for test_vit2"):
        SecondEncoder("test_vit2", file[0])
    with pytest.raises(ValueError, match="no vision transformer"):
        SecondEncoder("resnet18", "random")


def test_it_stays_as_it_is(file):
    own = SecondEncoder("test_vit4", file[0])
    assert not own.train().model.training
    assert not any(parameter.requires_grad for parameter in own.parameters())
