import pytest
import torch

from anoclip_anomalib.zeroshot.losses import dice_loss, focal_loss, normal_aware_loss, segmentation_loss


@pytest.fixture
def fixed():
    """Two 1 x 2 images: probabilities of the anomalous class and masks."""
    anomalous = torch.tensor([[[0.9, 0.2]], [[0.3, 0.4]]])
    return torch.stack([1 - anomalous, anomalous], dim=1), torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])


def test_focal_loss_in_closed_form(fixed):
    probability, mask = fixed
    right = torch.tensor([0.9, 0.8, 0.7, 0.6])
    right = (1 - 1e-5) * right + 1e-5 * (1 - right) + 1e-5
    torch.testing.assert_close(focal_loss(probability, mask), (-((1 - right) ** 2) * right.log()).mean())
    torch.testing.assert_close(focal_loss(probability, mask, gamma=0.0), -right.log().mean())


def test_dice_loss_is_of_each_image(fixed):
    probability, mask = fixed
    first = 1 - (2 * 0.9 + 1) / (1.1 + 1 + 1)
    second = 1 - 1 / (0.7 + 0 + 1)
    torch.testing.assert_close(dice_loss(probability[:, 1], mask), torch.tensor((first + second) / 2))


def test_an_empty_mask_and_an_empty_prediction_cost_nothing():
    assert dice_loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)) == 0


def test_the_segmentation_loss_is_their_sum(fixed):
    probability, mask = fixed
    expected = focal_loss(probability, mask) + dice_loss(probability[:, 0], 1 - mask) + dice_loss(probability[:, 1], mask)
    torch.testing.assert_close(segmentation_loss(probability, mask), expected)


def test_certain_and_wrong_is_finite_with_gradients():
    logits = torch.tensor([[[[200.0]], [[-200.0]]]], requires_grad=True)
    loss = segmentation_loss(logits.softmax(dim=1), torch.ones(1, 1, 1))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_the_normal_aware_loss_in_closed_form():
    feature = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    text = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(0))
    label, index = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    own = torch.stack([text[0, 0], text[1, 0], text[2, 1], text[3, 1]])
    weights = (feature @ own.T / 0.5).exp()
    right = [weights[0, :2].sum(), weights[1, :2].sum(), weights[2, 2], weights[3, 3]]
    expected = torch.stack([-(one / row.sum()).log() for one, row in zip(right, weights, strict=True)]).mean()
    torch.testing.assert_close(normal_aware_loss(feature, text, label, index, 0.5), expected)
    one_class = normal_aware_loss(feature, text, label, torch.zeros_like(index), 0.5)
    right = [weights[0, :2].sum(), weights[1, :2].sum(), weights[2, 2:].sum(), weights[3, 2:].sum()]
    torch.testing.assert_close(
        one_class, torch.stack([-(r / w.sum()).log() for r, w in zip(right, weights, strict=True)]).mean()
    )


def test_the_normal_aware_loss_of_shared_text_and_of_normal_images_alone():
    feature, text = torch.randn(3, 4), torch.randn(2, 4)
    label, index = torch.tensor([0, 1, 0]), torch.tensor([0, 1, 2])
    shared = normal_aware_loss(feature, text, label, index, 0.1)
    torch.testing.assert_close(shared, normal_aware_loss(feature, text.expand(3, 2, 4), label, index, 0.1))
    assert normal_aware_loss(feature, text, torch.zeros(3), index, 0.1).abs() < 1e-6
