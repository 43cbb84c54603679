"""Random numbers that belong to an image: a function of its noise, and of nothing else."""

import torch
from torch import Tensor

# What images need random numbers for.
LABELS, MEMORY, FLIPS, SHIFTS, LEAVES, CROPS, COLOURS, PICKS, SWEEPS, TEXTURE, STROKES, LEVELS, BOXES = range(13)
# Which numbers of a noise vector decide. Whoever lets noise learn leaves them alone.
SEEDS = [0, -1]
# More numbers than one image needs for most purposes. Textures of images of a megapixel run into other streams.
_LONGEST = 2**20
# Constants of splitmix64 (Steele et al., OOPSLA 2014) as signed integers: torch has no unsigned arithmetic.
_STEP, _MIX = -7046029254386353131, (-4658895280553007687, -7723592293110705685)


def uniform(noise: Tensor, purpose: int, count: int = 1) -> Tensor:
    """Draw numbers for each image from the bits of its noise vector.

    Neither resuming a run nor another number of ranks changes them. Draws for different purposes are independent,
    as long as an image needs at most 2^20 numbers for one.

    Args:
        noise (Tensor): Noise [N, noise_dim] in fp32.
        purpose (int): One of the numbers in this module, such as ``LABELS``.
        count (int): Numbers for each image. Defaults to 1.

    Returns:
        Tensor: Numbers [N, count] in [0, 1), float64.
    """
    bits = noise.detach().float()[:, SEEDS].contiguous().view(torch.int32).long()
    state = (bits[:, :1] << 32) + bits[:, 1:]
    state = state + _STEP * (1 + purpose * _LONGEST + torch.arange(count, device=noise.device))
    for shift, factor in zip((30, 27), _MIX, strict=True):
        state = (state ^ _shift_right(state, shift)) * factor
    state = state ^ _shift_right(state, 31)
    return _shift_right(state, 11).double() * 2.0**-53


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """Shift and fill with zeros, where torch's shift fills with the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
