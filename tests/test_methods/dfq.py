"""A plain rendering of DFQ, on which MAD builds."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness import ROUNDS, NormStatistics, Plain, cosine, divergence, set_lr
from torch import Tensor


def render_dfq(
    plain: Plain,
    balance: float,
    sample: Callable[[Tensor], Tensor] | None = None,
    after_generation: Callable[[], None] = lambda: None,
    rounds: int = ROUNDS,
) -> None:
    """Train the networks: one generator step against the teacher's statistics, then ten student steps.

    Args:
        plain (Plain): The networks, trained in place.
        balance (float): The weight of the balance of classes.
        sample (Callable[[Tensor], Tensor], optional): Noise to the student's images. Defaults to the generator.
        after_generation (Callable[[], None]): Called after each generator step. Defaults to nothing.
        rounds (int): Rounds to run. Defaults to ``ROUNDS``.
    """
    student = torch.optim.SGD(plain.student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    generator = torch.optim.Adam(plain.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    statistics = NormStatistics(plain.teacher)
    for i in range(rounds):
        set_lr(student, cosine(0.1, i, rounds))
        plain.student.eval()
        images = plain.generator(next(plain.noise))
        logits = plain.teach(images)
        one_hot = F.cross_entropy(logits, logits.max(1)[1])
        mean = F.softmax(logits, dim=1).transpose(0, 1).flatten(1).mean(1)
        adversary = -divergence(plain.study(images), logits).mean()
        loss = statistics.loss() + one_hot + balance * (mean * torch.log(mean)).sum() + adversary
        generator.zero_grad()
        loss.backward()
        generator.step()
        after_generation()

        plain.student.train()
        for _ in range(10):
            with torch.no_grad():
                images = (sample or plain.generator)(next(plain.noise))
                logits = plain.teach(images)
            loss = divergence(plain.study(images), logits).mean()
            student.zero_grad()
            loss.backward()
            student.step()
