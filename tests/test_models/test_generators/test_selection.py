"""Images that the teacher is most confident about, in a bank and by themselves."""

import copy

import pytest
import torch
from conftest import assert_same_state, build_runner, run
from mmengine.optim import OptimWrapper
from ranks import train

from mmdfad.models.generators import ImageBank, Strokes
from mmdfad.models.generators.selection import surest_images
from mmdfad.models.pixels import PixelSpace
from mmdfad.utils import DistillError

SPACE = PixelSpace(torch.full((1,), 100.0).double(), torch.full((1,), 50.0).double(), False)


def chosen_plainly(images, logits, count):
    """In turns, each label gives its surest image that is left."""
    probabilities = logits.softmax(1)
    queues = {}
    for i in sorted(range(len(images)), key=lambda i: -probabilities[i].max()):
        queues.setdefault(int(probabilities[i].argmax()), []).append(i)
    turns = [queue[turn] for turn in range(len(images)) for queue in queues.values() if turn < len(queue)]
    return turns[:count], queues


@pytest.mark.parametrize('size', [4, 7, 40])
@pytest.mark.parametrize('count', [6, 16, 40])
def test_as_many_of_each_label_whatever_the_batches(count, size):
    """One label has only a few of the 40 images."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(40, 4) + torch.tensor([2.0, 0.0, 0.0, -3.0])
    images = torch.arange(40.0).view(40, 1, 1, 1)
    found = surest_images(images.split(size), lambda batch: logits[batch.flatten().long()], count)
    turns, queues = chosen_plainly(images, logits, count)
    labels = logits.argmax(1)
    counts = labels[found.flatten().long()].bincount(minlength=4).tolist()
    # Of the labels of the last turn, any may give the last images.
    assert sorted(counts) == sorted(labels[turns].bincount(minlength=4).tolist())
    for label, queue in queues.items():
        assert {int(i) for i in found.flatten() if labels[int(i)] == label} == set(queue[: counts[label]])


def test_pixels_of_a_segmentor_are_averaged():
    logits = torch.zeros(3, 2, 2, 2)
    logits[0, 0] = 1.3  # all pixels somewhat sure: .79
    logits[1, 0, 0] = 9.0  # half of them very sure, the others not: a mean of .75
    logits[2, 0] = 3.0
    images = torch.arange(3.0).view(3, 1, 1, 1)
    found = surest_images([images], lambda batch: logits[batch.flatten().long()], 2)
    assert found.flatten().tolist() == [0, 2]


def bank_of(candidates, seed=0):
    torch.manual_seed(seed)
    shape = dict(noise_dim=6, image_size=8, channels=1)
    bank = ImageBank(**shape, count=12, shift=0, candidates=candidates, init=dict(type='Strokes', **shape))
    bank.bind_pixels(SPACE)
    return bank


def brightness(images):
    """Logits of two labels: dark and bright."""
    mean = images.mean((1, 2, 3))
    return torch.stack([-mean, mean], dim=1)


def test_a_bank_begins_with_the_surest_candidates():
    plain, bank = bank_of(1), bank_of(20)
    bank.prepare(brightness)
    sampled = bank.sample(torch.randn(5, 6))
    assert all(any(torch.equal(image, one) for one in bank.pixels) for image in sampled)
    assert brightness(bank.pixels).abs().mean() > 1.5 * brightness(plain.pixels).abs().mean()
    assert brightness(bank.pixels).argmax(1).bincount().tolist() == [6, 6]


def test_a_stored_bank_is_not_chosen_again():
    bank = bank_of(20)
    bank.prepare(brightness)
    other = bank_of(20, seed=1)
    other.load_state_dict(bank.state_dict())
    other.prepare(brightness)
    assert torch.equal(other.pixels, bank.pixels)
    assert 'filled' not in bank_of(1).state_dict()


def test_an_empty_bank_is_not_used():
    bank = bank_of(2)
    optim = OptimWrapper(torch.optim.SGD(bank.parameters(), lr=1.0))
    for use in (lambda noise: bank.sample(noise), lambda noise: bank.update(noise, None, optim)):
        with pytest.raises(DistillError, match=r'is empty until AdversarialDistiller.prepare is called'):
            use(torch.randn(5, 6))
    with pytest.raises(DistillError, match=r'model.generator.candidates must be .* but found 0'):
        bank_of(0)


LEAVES = dict(type='DeadLeaves', noise_dim=16, image_size=16, shapes=20)
BANK = dict(type='ImageBank', noise_dim=16, image_size=16, count=9, candidates=3, shift=1, init=LEAVES)


@pytest.mark.parametrize('start', [None, dict(type='LeastSquaresStart', images=6, batch_size=4)])
def test_a_run_with_candidates_resumes_exactly(tiny_cfg, tmp_path, start):
    """Law 5, inside wrappers, and with a start that uses the bank before the first step."""
    tiny_cfg.model.generator = dict(type='AugmentedGenerator', generator=dict(**BANK, fixed=True), shift=1)
    tiny_cfg.model.start = start
    tiny_cfg.model.generation = []
    whole = run(copy.deepcopy(tiny_cfg), train_cfg__max_iters=4, work_dir=str(tmp_path / 'whole'))
    checkpoint = str(tmp_path / 'whole/iter_2.pth')
    resumed = run(tiny_cfg, train_cfg__max_iters=4, resume=True, load_from=checkpoint, work_dir=str(tmp_path / 'b'))
    assert_same_state(resumed.model.state_dict(), whole.model.state_dict())
    bank = whole.model.generator.generator
    assert bank.filled
    labels = whole.model.teacher(bank.pixels.detach()).logits.argmax(1)
    assert len(labels.unique()) > 1


def test_building_a_distiller_chooses_nothing(tiny_cfg):
    """Tools that load a checkpoint afterwards would choose in vain."""
    tiny_cfg.model.generator = BANK
    model = build_runner(tiny_cfg).model
    assert not model.generator.filled
    model.prepare()
    assert model.generator.filled


def test_an_average_begins_as_the_images_that_were_chosen(tiny_cfg):
    tiny_cfg.model.generator = dict(type='EMAGenerator', generator=BANK, decay=0.9)
    tiny_cfg.train_cfg.update(max_iters=1, phases=[dict(name='generation')])
    generator = run(tiny_cfg).model.generator
    assert generator.average.pixels.std() == pytest.approx(generator.generator.pixels.std().item(), rel=0.05)


def test_two_ranks_have_the_same_images(tiny_cfg, tmp_path):
    """Also if they draw other candidates."""
    tiny_cfg.model.generator = BANK
    tiny_cfg.randomness.diff_rank_seed = True
    tiny_cfg.train_cfg.update(max_iters=1, phases=[dict(name='imitation')])
    tiny_cfg.work_dir = str(tmp_path)
    first, second = (state['model'] for state in train(tiny_cfg, 2))
    assert first['generator.pixels'].std() > 0.1
    assert_same_state(first, second)  # each rank has made a student with its own seed, too


# Strokes


@pytest.mark.parametrize(('size', 'channels'), [(32, 1), ((24, 40), 3)])
def test_strokes_are_lines_on_a_plain_background(size, channels):
    source = Strokes(8, size, channels)
    noise = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    images = source.draw(noise)
    assert images.shape == (64, channels, *source.image_size)
    assert images.min() >= 0
    assert images.max() <= 1
    # Most pixels have the colour of the background, the most frequent one.
    background = images.flatten(2).mode(2).values[..., None, None]
    share = ((images - background).abs() < 1e-6).float().mean((1, 2, 3))
    assert 0.5 < share.mean() < 0.95
    black = (background.flatten(1) == 0).all(1).float().mean()
    assert 0.15 < black < 0.45
    # Each image depends on its own noise only.
    assert torch.equal(source.draw(noise[10:13]), images[10:13])


def test_one_straight_stroke_covers_its_length_times_its_width():
    source = Strokes(2, 64, 1)
    numbers = torch.tensor([0.0, 0.5, 0.5, 0.3, 0.5, 0.5]).double().view(1, 1, 6)  # to the right, no turn
    path = source._paths(numbers)
    length = (path[0, 0, -1] - path[0, 0, 0]).norm()
    assert length == pytest.approx(0.4 * 5**0.3)
    torch.testing.assert_close(path[0, 0].mean(0), torch.tensor([0.5, 0.5]).double())
    radius = 0.05
    cover = source._cover(path[:, 0].float(), torch.tensor([radius]))
    area = 2 * radius * length + torch.pi * radius**2  # with round ends
    assert cover.sum() / 64**2 == pytest.approx(float(area), rel=0.02)


def test_a_full_turn_is_a_circle():
    numbers = torch.tensor([0.0, 1.0, 0.5, 1.0, 0.5, 0.5]).double().view(1, 1, 6)
    path = Strokes(2, 32, 1)._paths(numbers)[0, 0]
    radius = (path - path[:-1].mean(0)).norm(dim=1)
    assert radius.std() < 0.02 * radius.mean()
    assert 2 * torch.pi * radius.mean() == pytest.approx(2.0, rel=0.02)


def test_strokes_need_a_positive_number():
    with pytest.raises(DistillError, match=r'model.generator.strokes must be .* but found 0'):
        Strokes(2, 8, strokes=0)
