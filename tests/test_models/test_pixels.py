"""Maps between the normalised pixels of two models."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import build_model

from mmdfad.models.pixels import PixelMap, PixelSpace, image_channels, resize_images
from mmdfad.utils import DistillError

SPACES = [
    dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
    dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], to_rgb=False),
    dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=False),
    dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], to_rgb=True),
]


def model_of(space):
    return build_model(
        dict(type='ImageClassifier', backbone=dict(type='LeNet5', num_classes=2), data_preprocessor=dict(space))
    )


@pytest.mark.parametrize(('source', 'target'), itertools.product(SPACES, SPACES))
def test_same_image_either_way(source, target):
    """An image that the teacher's preprocessor normalises maps to what the student's preprocessor makes of it."""
    source, target = model_of(source), model_of(target)
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    ours = source.data_preprocessor(dict(inputs=images))['inputs']
    expected = target.data_preprocessor(dict(inputs=images))['inputs']
    mapped = PixelMap(PixelSpace.of(source), PixelSpace.of(target))(ours)
    torch.testing.assert_close(mapped, expected, rtol=1e-5, atol=2e-6)


def test_equal_spaces_need_no_computation():
    a, b = model_of(SPACES[0]), model_of(SPACES[0])
    images = torch.randn(1, 3, 4, 4)
    assert PixelMap(PixelSpace.of(a), PixelSpace.of(b))(images) is images


def test_gradients_pass_and_no_state_is_saved():
    pixel_map = PixelMap(PixelSpace.of(model_of(SPACES[0])), PixelSpace.of(model_of(SPACES[2])))
    images = torch.randn(1, 3, 4, 4, requires_grad=True)
    pixel_map(images).sum().backward()
    # The derivative of the sum is std_source / std_target of the channel, flipped.
    assert images.grad[0, :, 0, 0].tolist() == pytest.approx([58.395 / 127.5, 57.12 / 127.5, 57.375 / 127.5])
    assert not pixel_map.state_dict()


@pytest.mark.parametrize('space', SPACES)
def test_from_rgb_is_what_the_preprocessor_makes_of_an_image(space):
    model = model_of(space)
    loaded = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    rgb = loaded.flip(1) if space['to_rgb'] else loaded
    pixel_space = PixelSpace.of(model)
    normalised = pixel_space.from_rgb(rgb.double() / 255)
    expected = model.data_preprocessor(dict(inputs=loaded))['inputs']
    torch.testing.assert_close(normalised, expected.double(), rtol=0, atol=1e-5)
    assert torch.equal(pixel_space.to_rgb(normalised), rgb)


def test_bounds_are_black_and_white():
    low, high = PixelSpace.of(model_of(SPACES[0])).bounds(3)
    assert low.flatten().tolist() == pytest.approx([-123.675 / 58.395, -116.28 / 57.12, -103.53 / 57.375])
    assert high.flatten().tolist() == pytest.approx([131.325 / 58.395, 138.72 / 57.12, 151.47 / 57.375])
    one = PixelSpace(torch.zeros(1).double(), torch.ones(1).double(), False)
    assert [bound.shape for bound in one.bounds(4)] == [(4, 1, 1)] * 2
    with pytest.raises(DistillError, match=r'images of 1 channel\(s\).*are for 3; set model.generator.channels=3'):
        PixelSpace.of(model_of(SPACES[0])).bounds(1)


@pytest.mark.parametrize('space', [SPACES[0], SPACES[3]])
def test_to_rgb_gives_the_image_back(space):
    model = model_of(space)
    bgr = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    normalised = model.data_preprocessor(dict(inputs=bgr))['inputs']
    assert torch.equal(PixelSpace.of(model).to_rgb(normalised), bgr.flip(1))


def test_gray_and_missing_preprocessor():
    gray = PixelSpace.of(model_of(dict(mean=[33.46], std=[78.87])))
    assert PixelMap(gray, gray).identity
    plain = PixelSpace.of(torch.nn.Identity())
    assert torch.equal(plain.to_rgb(torch.full((1, 3, 1, 1), 300.0)), torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))


def test_different_channel_counts_are_refused():
    two = PixelSpace(torch.zeros(2).double(), torch.ones(2).double(), flips=False)
    with pytest.raises(DistillError, match=r'different channel counts \(\[2, 3\]'):
        PixelMap(PixelSpace.of(model_of(SPACES[0])), two)


@pytest.mark.parametrize('size', [(24, 40), (8, 8), (16, 40), (48, 16)])
def test_resizing_is_differentiable_and_keeps_the_colours(size):
    source, target = PixelSpace.of(model_of(SPACES[0])), PixelSpace.of(model_of(SPACES[2]))
    images = torch.randn(2, 3, 24, 40, requires_grad=True)
    small = PixelMap(source, target, size)(images)
    assert small.shape == (2, 3, *size)
    # Resizing is linear, with weights that sum to 1. It may come before or after the map.
    torch.testing.assert_close(small, resize_images(PixelMap(source, target)(images), size), rtol=1e-4, atol=1e-5)
    flat = torch.full((1, 3, 24, 40), 0.7)
    torch.testing.assert_close(PixelMap(source, source, size)(flat), torch.full((1, 3, *size), 0.7))
    small.square().sum().backward()
    assert (images.grad != 0).all()  # every pixel counts, also if the image shrinks to a third


def test_shrinking_averages_and_growing_interpolates():
    stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 1, 32, 32)
    inner = resize_images(stripes, (8, 8))[..., 1:-1, 1:-1]  # plain bilinear sampling would take every fourth pixel
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=0.02, rtol=0)
    image = torch.randn(1, 3, 5, 6)
    expected = F.interpolate(image, (10, 9), mode='bilinear', align_corners=False)
    torch.testing.assert_close(resize_images(image, (10, 9)), expected)


def test_an_equal_size_needs_no_computation():
    space, images = PixelSpace.of(model_of(SPACES[0])), torch.randn(1, 3, 4, 6)
    assert PixelMap(space, space, (4, 6))(images) is images
    assert resize_images(images, [4, 6]) is images


@pytest.mark.parametrize(
    ('space', 'convolution', 'channels'),
    [
        (SPACES[0], 3, 3),
        (dict(mean=[33.46], std=[78.87]), 1, 1),
        (dict(mean=[127.5], std=[127.5]), 3, 3),  # one number for all channels
        (dict(), 1, 1),  # no mean at all
    ],
)
def test_image_channels(space, convolution, channels):
    backbone = dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4, in_channels=convolution)
    assert (
        image_channels(build_model(dict(type='ImageClassifier', backbone=backbone, data_preprocessor=space)))
        == channels
    )
