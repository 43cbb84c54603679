import pytest
import torch

from mmdfad.models import RandomColor, RandomFlipCrop, RandomZoom
from mmdfad.utils import DistillError


def test_flips_and_shifts_are_of_the_image():
    torch.manual_seed(0)
    image = torch.arange(36.0).view(1, 1, 6, 6)
    out = RandomFlipCrop(flip=0.5, shift=1)(image.expand(200, -1, -1, -1))
    padded = torch.nn.functional.pad(image, [1] * 4, mode='reflect')[0, 0]
    possible = [p[y : y + 6, x : x + 6] for p in (padded, padded.flip(1)) for y in range(3) for x in range(3)]
    found = {next(i for i, p in enumerate(possible) if torch.equal(o[0], p)) for o in out}
    assert found == set(range(18))
    same = RandomFlipCrop(flip=0.0, shift=0)(image)
    assert torch.equal(same, image)
    assert torch.equal(RandomFlipCrop(flip=1.0, shift=0)(image), image.flip(3))


def test_zoom_shows_windows_within_the_image():
    torch.manual_seed(0)
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(200, 1, 8, 8)  # the value of a pixel is its column
    out = RandomZoom(scale=0.5, prob=1.0)(ramp)
    assert out.min() >= 0
    assert out.max() <= 7
    pixels = out[:, 0, 4, 1:-1].diff(dim=1).mean(dim=1)  # columns of the image in a pixel of the window: its scale
    assert 0.5 <= pixels.min() < 0.55
    assert 0.9 < pixels.max() <= 1
    left, right = out[:, 0, 4, 0], out[:, 0, 4, -1]
    assert left.min() < 0.5
    assert right.max() > 6.5
    assert left.unique().numel() > 150  # each its own way
    assert torch.allclose(RandomZoom(scale=1.0)(ramp), ramp, atol=1e-4)


@pytest.mark.parametrize('scale', [0, -0.5, 1.5])
def test_impossible_windows_are_refused(scale):
    with pytest.raises(DistillError, match=r'scale of RandomZoom must be in \(0, 1\]'):
        RandomZoom(scale)


def test_colors_change_by_image_and_not_by_pixel():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 4, 4).expand(500, -1, -1, -1)
    out = RandomColor(mix=0.2, contrast=0.5, brightness=0.3, prob=1.0)(images)
    pixels = torch.cat([images[0].flatten(1), torch.ones(1, 16)]).T  # [16, 4]: the same affine map for each
    maps = torch.linalg.lstsq(pixels.expand(500, -1, -1), out.flatten(2).transpose(1, 2))
    assert torch.allclose(pixels @ maps.solution, out.flatten(2).transpose(1, 2), atol=1e-3)
    shift, weight = maps.solution[:, 3], maps.solution[:, :3]
    assert shift.std(0).mean() == pytest.approx(0.3, abs=0.03)
    diagonal, mixed = weight.diagonal(dim1=1, dim2=2), weight[:, 0, 1] / weight[:, 1, 1]
    assert diagonal.abs().log().mean(1).std() == pytest.approx(0.5, abs=0.1)
    assert 0.15 < mixed.quantile(0.84) < 0.3
    assert torch.equal(RandomColor(mix=0, contrast=0, brightness=0)(images), images)


@pytest.mark.parametrize('augment', [RandomZoom(prob=0.5), RandomColor(prob=0.5)])
def test_about_half_of_the_images_stay(augment):
    torch.manual_seed(0)
    images = torch.randn(300, 3, 8, 8)
    stayed = [torch.allclose(a, b, atol=1e-3) for a, b in zip(augment(images), images, strict=True)]
    assert 120 < sum(stayed) < 180
