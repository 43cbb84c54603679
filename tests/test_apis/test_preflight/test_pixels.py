"""What a teacher's first layer tells of its training images, and of its data preprocessor."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from conftest import ROOT

from mmdfad.apis.preflight.pixels import USUAL, check_pixels, judge_pixels
from mmdfad.apis.preflight.training_pixels import TrainingPixels, read_training_pixels
from mmdfad.models import DeadLeaves
from mmdfad.models.build import build_network
from mmdfad.models.network import Network
from mmdfad.models.pixels import PixelSpace
from mmdfad.models.torch_classifier import TorchClassifier

SIZE = (48, 64)
# Means of red, green and blue.
WARM = torch.tensor([1.0, 0.85, 0.7]).view(3, 1, 1)


@cache
def loaded(count: int = 64, channels: int = 3) -> torch.Tensor:
    """RGB images [N, C, H, W] in 0..255, with more red than blue."""
    noise = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    images = 255 * DeadLeaves(8, SIZE, channels).draw(noise)
    return images * WARM if channels == 3 else images


def space(name: str = 'ImageNet', flips: bool = True) -> PixelSpace:
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in USUAL[name])
    return PixelSpace(mean, std, flips)


NETS = """
from torch import nn
def net(channels=3, padding=1, bias=False, norm=True, groups=1):
    return nn.Sequential(
        nn.Conv2d(channels, 24, 3, padding=padding, bias=bias, groups=groups),
        nn.BatchNorm2d(24, momentum=None) if norm else nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
"""


@pytest.fixture
def trained(tmp_path):
    """Makes a teacher whose batch norm knows some images, as they come out of its data preprocessor."""
    (tmp_path / 'nets.py').write_text(NETS)

    def make(images: torch.Tensor, **kwargs) -> Network:
        torch.manual_seed(0)
        model = TorchClassifier(f'{tmp_path}/nets.py:net', dict(channels=images.shape[1], **kwargs))
        with torch.no_grad():
            model.train()(images)
        return Network(model, 'teacher')

    return make


def normalised(images: torch.Tensor, by: PixelSpace) -> torch.Tensor:
    images = images if by.flips else images.flip(1)  # OpenMMLab loads BGR
    return (images - by.mean.float().view(-1, 1, 1)) / by.std.float().view(-1, 1, 1)


# The first layer


@pytest.mark.parametrize('kwargs', [{}, dict(bias=True), dict(padding=0), dict(padding=1, bias=True)])
@pytest.mark.parametrize('channels', [1, 3])
def test_it_knows_the_training_pixels(trained, channels, kwargs):
    images = normalised(loaded(channels=channels), PixelSpace(torch.tensor([100.0]), torch.tensor([60.0]), True))
    found = read_training_pixels(trained(images, **kwargs), torch.randn(2, channels, *SIZE))
    pixels = images.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(found.mean, pixels.mean(1), atol=0.08, rtol=0)
    torch.testing.assert_close(found.std, pixels.std(1), atol=0, rtol=0.25)
    assert found.error < 0.15


def test_reading_leaves_the_teacher_as_it_is(trained):
    teacher = trained(normalised(loaded(8), space()))
    teacher.model.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    read_training_pixels(teacher, torch.randn(2, 3, *SIZE))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert teacher.model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.model.model.modules())


@pytest.mark.parametrize('kwargs', [dict(norm=False), dict(groups=3)])
def test_other_first_layers_tell_nothing(trained, kwargs):
    teacher = trained(normalised(loaded(8), space()), **kwargs)
    assert read_training_pixels(teacher, torch.randn(2, 3, *SIZE)) is None
    assert check_pixels(teacher, torch.randn(2, 3, *SIZE)) == []


def test_statistics_that_no_images_have_tell_nothing(trained):
    teacher = trained(normalised(loaded(8), space()))
    norm = teacher.model.model[1]
    norm.running_var.copy_(10 ** torch.linspace(-3, 3, 24))
    assert read_training_pixels(teacher, torch.randn(2, 3, *SIZE)) is None


# The data preprocessor

RIGHT = [(name, flips) for name in USUAL for flips in (True, False) if (name, flips) != ('Caffe', True)]


@pytest.mark.parametrize(('name', 'flips'), RIGHT)
def test_right_ones_are_never_accused(trained, name, flips):
    own = space(name, flips)
    found = read_training_pixels(trained(normalised(loaded(), own)), torch.randn(2, 3, *SIZE))
    assert judge_pixels(found, own) == []


@pytest.mark.parametrize(('name', 'flips'), RIGHT)
def test_other_scales_are_found(trained, name, flips):
    """Pixels in [0, 1], in [0, 255], and of a standard deviation of about 1 are taken for each other."""
    own = space(name, flips)
    found = read_training_pixels(trained(normalised(loaded(), own)), torch.randn(2, 3, *SIZE))
    scale = own.std.mean()
    for other in USUAL:
        wrong = space(other, flips)
        if not 1 / 3 < wrong.std.mean() / scale < 3:
            (said,) = judge_pixels(found, wrong)
            assert 'Check mean and std' in said
            assert f'std={[round(v, 3) for v in wrong.std.tolist()]}' in said


def test_what_is_said_of_a_scale(trained):
    found = read_training_pixels(trained(normalised(loaded(), space('pixels in [0, 1]'))), torch.randn(2, 3, *SIZE))
    (said,) = judge_pixels(found, space('pixels in [0, 255]'))
    assert said.startswith('the data_preprocessor of the teacher has mean=[0.0] and std=[1.0]. If these are ')
    assert 'its training pixels had a mean of (0, 0, 0) and a standard deviation of (0, 0, 0)' in said
    assert 'The usual setting that fits best is mean=[0.0], std=[255.0] (pixels in [0, 1])' in said


@pytest.mark.parametrize('flips', [True, False])
def test_another_order_of_channels_is_found(trained, flips):
    found = read_training_pixels(trained(normalised(loaded(), space('ImageNet', flips))), torch.randn(2, 3, *SIZE))
    (said,) = judge_pixels(found, space('ImageNet', not flips))
    assert f'Check to_rgb (now {not flips})' in said


def test_a_teacher_of_rgb_in_0_1_whose_config_says_bgr_in_0_255(trained):
    own, wrong = space('pixels in [0, 1]', flips=True), space('pixels in [0, 255]', flips=False)
    found = read_training_pixels(trained(normalised(loaded(), own)), torch.randn(2, 3, *SIZE))
    said = ' '.join(judge_pixels(found, wrong))
    assert 'The usual setting that fits best is mean=[0.0], std=[255.0] (pixels in [0, 1])' in said


def test_grey_digits_are_not_accused():
    """MNIST is nearly black and white."""
    found = TrainingPixels(torch.zeros(1), torch.ones(1), 0.1)
    mnist = PixelSpace(torch.tensor([33.46]), torch.tensor([78.88]), False)
    assert judge_pixels(found, mnist) == []
    assert len(judge_pixels(found, replace(mnist, std=torch.tensor([1.0])))) == 1


# Real teachers

DATA = ROOT.parent / 'shared/data'
TEACHERS = [
    ('examples/resnet32_cifar10.py', {}, 'cifar10/resnet32.pth', (32, 32), (110, 107, 98)),
    ('examples/resnet32_cifar10.py', {'model.kwargs.depth': 44}, 'cifar10/resnet44.pth', (32, 32), (110, 107, 98)),
    (
        'configs/teachers/deeplabv3_r18w32_camvid_small.py',
        {},
        'camvid_teacher/deeplabv3_r18w32.pth',
        (144, 192),
        (103, 106, 108),
    ),
]


@pytest.mark.skipif(not DATA.exists(), reason='needs the trained teachers in ../shared')
@pytest.mark.parametrize(('config', 'options', 'checkpoint', 'size', 'mean'), TEACHERS)
def test_real_teachers(config, options, checkpoint, size, mean):
    cfg = dict(cfg_path=str(ROOT / config), checkpoint=str(DATA / checkpoint), cfg_options=options)
    teacher = build_network(cfg, 'teacher')
    found, own = read_training_pixels(teacher, torch.randn(2, 3, *size)), teacher.pixel_space
    assert (found.mean * own.std + own.mean).tolist() == pytest.approx(mean, abs=1.5)
    assert judge_pixels(found, own) == []
    accused = {name for name in USUAL if judge_pixels(found, space(name, own.flips))}
    narrow = {'pixels in [-1, 1]'} if own.std[0] < 100 else set()
    # The table in docs/models.md.
    assert accused == {'pixels in [0, 1]', 'pixels in [0, 255]', 'Caffe'} | narrow
    assert judge_pixels(found, replace(own, flips=not own.flips)) == []
