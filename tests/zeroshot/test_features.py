import pytest
import torch

from anoclip_anomalib.zeroshot.features import check_images


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2, 8, 3, 64, 64), "a video of"),
        ((2, 3, 3, 64, 64), "a video of"),
        ((3, 64, 64), "(3, 64, 64), something else"),
        ((2, 1, 64, 64), "batch of colour images"),
    ],
)
def test_what_is_no_batch_of_colour_images_is_refused(anoclip_model, shape, said):
    for use in (check_images, anoclip_model()):
        with pytest.raises(ValueError, match="Images must be") as error:
            use(torch.zeros(shape))
        assert said in str(error.value)
    check_images(torch.zeros(2, 3, 1, 7))


@pytest.mark.parametrize(("settings", "views", "tiles"), [({}, 1, 1), ({"views": 22}, 22, 1), ({"tiling": "square"}, 1, 3)])
@torch.no_grad()
def test_encode_then_score_is_the_model(anoclip_model, settings, views, tiles):
    model, images = anoclip_model(**settings), torch.randn(2, 3, 64, 64 if tiles == 1 else 150)
    features = model.encode(images)
    assert features.class_tokens.shape == (views, 2, tiles, 32)
    assert features.patch_tokens.shape == (2, tiles, 16, 32)
    assert features.grid == (4, 4)
    assert len(features.layout) == tiles
    whole, steps = model(images), model.score(features)
    assert torch.equal(whole.pred_score, steps.pred_score)
    assert torch.equal(whole.anomaly_map, steps.anomaly_map)
    if tiles == 1:
        plain = model.visual_encoder(images)
        assert torch.equal(features.class_tokens[0, :, 0], plain.class_token)
        assert torch.equal(features.patch_tokens[:, 0], plain.patch_tokens)


@torch.no_grad()
def test_features_of_several_images_can_be_scored_one_by_one_and_need_no_class(anoclip_model):
    model, images = anoclip_model(class_name=None, views=22), torch.randn(3, 3, 64, 64)
    features = model.encode(images)
    model.set_class("bottle")
    together = model.score(features)
    for index in range(3):
        part = slice(index, index + 1)
        one = features._replace(class_tokens=features.class_tokens[:, part], patch_tokens=features.patch_tokens[part])
        torch.testing.assert_close(model.score(one).pred_score, together.pred_score[part], atol=1e-6, rtol=0)
        torch.testing.assert_close(model.score(one).anomaly_map, together.anomaly_map[part], atol=1e-6, rtol=0)
