import torch

from mmdfad.models import RandomFlipCrop


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
