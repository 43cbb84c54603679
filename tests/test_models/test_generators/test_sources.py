"""Images that are drawn, not learned: dead leaves and crops of pictures."""

import builtins
import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmdfad.models.generators import DeadLeaves, Pictures, Strokes, pictures
from mmdfad.models.generators.source import change_colours
from mmdfad.models.pixels import PixelSpace
from mmdfad.utils import DistillError

# Channels that are flipped, channels that are kept, and the range [0, 1].
SPACES = dict(
    flipped=PixelSpace(
        torch.tensor([123.675, 116.28, 103.53]).double(), torch.tensor([58.4, 57.1, 57.4]).double(), True
    ),
    kept=PixelSpace(torch.tensor([103.53, 116.28, 123.675]).double(), torch.tensor([57.4, 57.1, 58.4]).double(), False),
    unit=PixelSpace(torch.zeros(1).double(), torch.full((1,), 255.0).double(), False),
)
COLOURS = dict(left=(250, 10, 60), right=(20, 200, 120))


def noise_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path):
    """Two pictures of other sizes and formats, each of one colour with a bright left half."""
    for name, size in (('a.png', (40, 30)), ('inner/b.jpg', (24, 48))):
        pixels = np.empty((*reversed(size), 3), np.uint8)
        pixels[:, : size[0] // 2], pixels[:, size[0] // 2 :] = COLOURS['left'], COLOURS['right']
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('not a picture')
    return tmp_path


@pytest.fixture(params=['leaves', 'strokes', 'pictures'])
def kind(request, folder):
    procedural = dict(leaves=DeadLeaves, strokes=Strokes)
    return procedural.get(request.param, lambda *args: Pictures(*args, folder=str(folder)))


@pytest.mark.parametrize('image_size', [16, (12, 40), (17, 33), (1, 5), (70, 100)])
@pytest.mark.parametrize('channels', [1, 3])
def test_any_size_and_pixel_space(kind, image_size, channels):
    source = kind(8, image_size, channels)
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    images = source(noise_of(3))
    assert images.shape == (3, channels, height, width)
    assert images.is_contiguous()
    assert not images.requires_grad
    assert images.min() >= -1
    assert images.max() <= 1
    for space in [SPACES['unit'], *(SPACES.values() if channels == 3 else ())]:
        source.bind_pixels(space)
        low, high = space.bounds(channels)
        bound = source(noise_of(3))
        assert (bound >= low - 1e-5).all()
        assert (bound <= high + 1e-5).all()
        # The same image in another space.
        torch.testing.assert_close((bound - low) / (high - low), (images + 1) / 2, rtol=0, atol=1e-5)


def test_an_image_is_a_function_of_its_noise(kind):
    source, noise = kind(8, (20, 28), 3), noise_of(7)
    whole = source(noise)
    assert torch.equal(source(noise), whole)
    assert torch.equal(kind(8, (20, 28), 3)(noise), whole)
    for parts in (noise.split(1), noise.split(3)):
        torch.testing.assert_close(torch.cat([source(part) for part in parts]), whole, rtol=0, atol=1e-6)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    torch.testing.assert_close(source(noise[order]), whole[order], rtol=0, atol=1e-6)
    assert all((a - b).abs().mean() > 0.02 for i, a in enumerate(whole) for b in whole[:i])
    assert torch.equal(source(noise.double()), whole.double())


def test_sources_learn_nothing(kind):
    source = kind(8, 16, 3)
    assert not source.learns
    assert source.state_dict() == {}


def test_other_channels_than_the_teacher_are_refused(kind):
    with pytest.raises(
        DistillError, match=r'1 channel\(s\), but the mean .* are for 3; set model.generator.channels=3'
    ):
        kind(8, 16, 1).bind_pixels(SPACES['flipped'])


def test_colours_change_as_by_hand():
    noise = noise_of(500)
    flat = torch.cat([torch.full((500, 3, 1, 1), 0.45), torch.full((500, 3, 1, 1), 0.55)], dim=3)
    changed = change_colours(flat, noise)
    contrast = (changed[..., 1] - changed[..., 0])[:, :, 0] / 0.1
    assert 0.5 <= contrast.min() < 0.55
    assert 1.35 < contrast.max() <= 1.4 + 1e-5
    torch.testing.assert_close(contrast[:, 0], contrast[:, 2], rtol=0, atol=1e-5)
    shift = changed.mean(3)[:, :, 0] - 0.5
    assert 0.25 < shift.abs().max() <= 0.2 + 0.075 + 1e-6
    assert 0.1 < (shift[:, 0] - shift[:, 1]).abs().max() <= 0.15 + 1e-6
    assert (change_colours(torch.ones(500, 1, 2, 2), noise) <= 1).all()


# Dead leaves


def test_leaves_need_no_file(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f'opens {args}')

    for module in (builtins, io):
        monkeypatch.setattr(module, 'open', refuse)
    assert DeadLeaves(8, 16)(noise_of(2)).std() > 0.1


def test_a_scene_without_shapes_in_sight_is_its_background():
    """Brightness 1 and no stripes; contrast does not change an even image."""
    images = DeadLeaves(8, 16, shapes=1)(noise_of(60))
    even = (images.flatten(2).std(2) < 1e-5).all(1)
    assert even.sum() > 10  # the two shapes are small, and the views are narrow
    assert images[even].mean((2, 3)).std() > 0.2


def test_more_shapes_are_more_edges():
    few, many = (DeadLeaves(8, 64, shapes=shapes)(noise_of(12)) for shapes in (20, 400))
    assert many.diff(dim=3).abs().mean() > 1.5 * few.diff(dim=3).abs().mean()


def test_spectra_fall_as_those_of_photographs():
    """The amplitude falls about as 1 / frequency."""
    images = DeadLeaves(8, 64, 1)(noise_of(24))[:, 0]
    window = torch.hann_window(64)
    power = torch.fft.rfft2((images - images.mean((1, 2), keepdim=True)) * window * window[:, None]).abs().square()
    frequency = (torch.fft.fftfreq(64)[:, None].square() + torch.fft.rfftfreq(64).square()).sqrt() * 64
    bands = [(frequency >= low) & (frequency < 2 * low) for low in (2, 4, 8, 16)]
    amplitude = torch.stack([power.mean(0)[band].mean().sqrt() for band in bands]).log2()
    slopes = amplitude.diff()
    assert (slopes > -2).all()
    assert (slopes < -0.5).all()


def test_shapes_must_be_a_number():
    with pytest.raises(DistillError, match=r'model.generator.shapes must be a whole number, 1 or more, but found 0'):
        DeadLeaves(8, 16, shapes=0)


# Pictures


@pytest.fixture
def plain(folder, monkeypatch):
    """Crops without a change of colours."""
    monkeypatch.setattr('mmdfad.models.generators.source.change_colours', lambda images, noise: images)
    source = Pictures(8, (6, 8), folder=str(folder))
    source.bind_pixels(SPACES['unit'])
    return source


def test_crops_are_parts_of_the_pictures(plain):
    images = plain(noise_of(200)) * 255
    left, right = (torch.tensor(c).view(3, 1) for c in COLOURS.values())
    edges = images[:, :, 3, [0, -1]]
    first, last = ([(edges[..., side] - c.T).abs().amax(1) < 12 for c in (left, right)] for side in (0, 1))
    whole = {(a, b): int((x & y).sum()) for a, x in enumerate(first) for b, y in enumerate(last)}
    # Crops of one side, and those over the middle, half of them flipped.
    assert sum(whole.values()) > 150  # in the others an edge is near the middle
    assert min(whole[0, 0], whole[1, 1]) > 5
    assert min(whole[0, 1], whole[1, 0]) > 20


def test_grey_teachers_get_the_luminance(folder, plain):
    grey = Pictures(8, (6, 8), 1, str(folder))
    grey.bind_pixels(SPACES['unit'])
    colours = plain(noise_of(9))
    expected = 0.299 * colours[:, :1] + 0.587 * colours[:, 1:2] + 0.114 * colours[:, 2:]
    torch.testing.assert_close(grey(noise_of(9)), expected, rtol=0, atol=1e-6)


def test_large_pictures_are_reduced(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, 'LARGEST', 20)
    Image.fromarray(np.zeros((30, 90, 3), np.uint8)).save(tmp_path / 'wide.png')
    assert pictures._read(tmp_path / 'wide.png', 20).shape == (3, 7, 20)
    assert Pictures(8, 16, folder=str(tmp_path))(noise_of(2)).shape == (2, 3, 16, 16)


def test_photographs_of_packages():
    pytest.importorskip('skimage')
    source = Pictures(8, 32)
    assert len(source.files) == 6
    images = source(noise_of(20))
    assert images.std() > 0.2
    assert all(path.is_file() for path in source.files)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(pictures.SHIPPED, 'no_such_package', ('data/a.png',))
    with pytest.raises(DistillError, match=r"found no no_such_package: pip install 'mmdfad\[pictures\]', or set model"):
        Pictures(8, 16)


def test_a_picture_of_too_many_pixels_is_explained(tmp_path, monkeypatch):
    """PIL takes it for an attack."""
    Image.new('RGB', (40, 40)).save(tmp_path / 'large.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 500)
    with pytest.raises(DistillError, match=r'large.png in .* cannot be read|large.png .*is not a picture that can be'):
        Pictures(8, 16, folder=str(tmp_path))(noise_of(1))


def test_bad_folders_are_explained(tmp_path):
    with pytest.raises(DistillError, match=r'must hold pictures, but there is no such folder'):
        Pictures(8, 16, folder=str(tmp_path / 'none'))
    with pytest.raises(DistillError, match=r'must hold pictures, but no file in it is one that PIL reads'):
        Pictures(8, 16, folder=str(tmp_path))
    (tmp_path / 'bad.png').write_text('no picture')
    with pytest.raises(DistillError, match=r'bad.png in model.generator.folder is not a picture that can be read'):
        Pictures(8, 16, folder=str(tmp_path))(noise_of(1))
    with pytest.raises(DistillError, match=r'Pictures have 1 or 3 channels, but model.generator.channels is 5'):
        Pictures(8, 16, 5)
