"""Fast synthesis: a generator that is a good start for a few steps of inversion."""

import copy
from collections.abc import Callable

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmdfad.registry import MODELS

from .base import Generator, loss_scale
from .pool import LearnedPool
from .wrappers import flip_and_shift


@MODELS.register_module()
class MetaGenerator(LearnedPool):
    """FastDFKD (arXiv 2112.06253): a copy of the generator and its noise learn a batch of images in a few steps.

    The best of its batches goes into a memory, from which the imitation phase draws. The generator itself moves by the
    sum of the copy's gradients (first-order MAML), so that the next copy starts from a better place. In each step the
    loss sees the images flipped and shifted in another way; the memory keeps them as they are.

    Args:
        generator (dict | Generator): The generator inside, not another wrapper.
        capacity (int): Images in the memory.
        steps (int): Steps of the copy in each update. Defaults to 10.
        generator_lr (float): Learning rate of the copy (Adam). Defaults to 2e-3.
        noise_lr (float): Learning rate of the noise (Adam). Defaults to 1e-2.
        flip (float): Probability of a horizontal flip. Defaults to 0.5.
        shift (int): Largest shift in pixels. Defaults to 4.

    Raises:
        DistillError: If a setting is out of its range.
    """

    def __init__(
        self,
        generator: dict | Generator,
        capacity: int,
        steps: int = 10,
        generator_lr: float = 2e-3,
        noise_lr: float = 1e-2,
        flip: float = 0.5,
        shift: int = 4,
    ) -> None:
        super().__init__(generator, capacity, steps, noise_lr, flip, shift)
        self.generator_lr = generator_lr

    def update(self, noise: Tensor, loss: Callable[..., Tensor], optim: OptimWrapper) -> None:
        fast = copy.deepcopy(self.generator)
        learned = noise.clone().requires_grad_(True)
        inner = torch.optim.Adam(
            [dict(params=fast.learner.parameters()), dict(params=[learned], lr=self.noise_lr)],
            lr=self.generator_lr,
            betas=(0.5, 0.999),
        )
        meta_gradients = [torch.zeros_like(p) for p in self.learner.parameters()]
        best, best_images, scale = torch.inf, None, loss_scale(optim)
        for step in range(self.steps):
            with optim.optim_context(self):
                images = fast(learned)
                value = loss(flip_and_shift(images, noise, self.flip, self.shift, draw=step))
            if best_images is None or value < best:
                best, best_images = value.detach(), images.detach()
            inner.zero_grad()
            (value * scale).backward()
            for total, parameter in zip(meta_gradients, fast.learner.parameters(), strict=True):
                if parameter.grad is not None:
                    parameter.grad /= scale
                    total += parameter.grad
                    # In fp16 a gradient that overflows moves nothing; the optimizer leaves out its step, too.
                    parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
            learned.grad = (learned.grad / scale).nan_to_num(0.0, 0.0, 0.0)
            self._keep_chance(learned.grad)
            inner.step()
        self.memory.push(best_images)
        self._take_statistics(fast)
        # A loss with just these gradients: the optimizer wrapper accumulates, clips and averages them as any others.
        pairs = zip(self.learner.parameters(), meta_gradients, strict=True)
        optim.update_params(sum((parameter * gradient).sum() for parameter, gradient in pairs))

    def _take_statistics(self, fast: Generator) -> None:
        """Take over the copy's batch norm statistics. Training does not use them, but pictures of a run do."""
        for own, learned in zip(self.learner.buffers(), fast.learner.buffers(), strict=True):
            own.copy_(learned)
