"""FastDFKD (arXiv 2112.06253): a copy of the generator and its noise learn one batch, the generator their gradients."""

import copy

import torch
import torch.nn.functional as F
from harness import NormStatistics, Plain, assert_as_rendered, cosine, divergence, prepare, set_lr, shrink

from mmdfad.models.chance import FLIPS, LABELS, MEMORY, SHIFTS, uniform

CONFIG = 'fastdfkd/fastdfkd_resnet34-resnet18_1xb256_cifar10.py'
CLASSES = 5
# The student learns from the third round on, the generator against it from the second on.
ROUNDS, BEGIN, STEPS = 4, 2, 3


def augment(images, noise, draw=0):
    """Flip images, and crop them from a reflected border of 4 pixels, each in its own way."""
    flips = uniform(noise, FLIPS, draw + 1)[:, draw]
    shifts = uniform(noise, SHIFTS, 2 * draw + 2)[:, 2 * draw :]
    changed = []
    for image, flip, shift in zip(images, flips, shifts, strict=True):
        image = torch.flip(image, [2]) if flip < 0.5 else image
        y, x = (int(s * 9) for s in shift)
        padded = F.pad(image[None], [4, 4, 4, 4], mode='reflect')[0]
        changed.append(padded[:, y : y + image.shape[1], x : x + image.shape[2]])
    return torch.stack(changed)


def fastdfkd(plain: Plain, rounds=ROUNDS):
    student = torch.optim.SGD(plain.student.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)
    meta = torch.optim.Adam(plain.generator.parameters(), lr=0.02, betas=(0.5, 0.999))
    statistics = NormStatistics(plain.teacher)
    pool = []
    for i in range(rounds):
        # Synthesis.
        plain.student.eval()
        noise = next(plain.noise)
        targets = (uniform(noise, LABELS)[:, 0] * CLASSES).long()
        z = noise.clone().requires_grad_()
        fast = copy.deepcopy(plain.generator)
        inner = torch.optim.Adam(
            [{'params': fast.parameters()}, {'params': [z], 'lr': 1e-2}], lr=2e-3, betas=(0.5, 0.999)
        )
        meta.zero_grad()
        best = None
        for step in range(10):
            images = fast(z)
            augmented = augment(images, noise, step)
            logits = plain.teach(augmented)
            loss = 10 * statistics.loss() + 0.5 * F.cross_entropy(logits, targets)
            if i >= BEGIN - 1:
                own = plain.study(augmented)
                agreed = (own.max(1)[1] == logits.max(1)[1]).to(own)
                loss = loss - 1.33 * (divergence(own, logits) * agreed).mean()
            if best is None or loss.item() < best[0]:
                best = loss.item(), images.detach()
            inner.zero_grad()
            loss.backward()
            for own, copied in zip(plain.generator.parameters(), fast.parameters(), strict=True):
                own.grad = copied.grad.clone() if own.grad is None else own.grad + copied.grad
            inner.step()
        meta.step()
        plain.student.train()
        pool.append(best[1])
        if i < BEGIN:
            continue

        # Distillation.
        set_lr(student, cosine(0.2, i - BEGIN, rounds - BEGIN, end=2e-4))
        kept = torch.cat(pool)
        for _ in range(STEPS):
            noise = next(plain.noise)
            images = augment(kept[(uniform(noise, MEMORY)[:, 0] * len(kept)).long()], noise)
            with torch.no_grad():
                logits = plain.teach(images)
            loss = divergence(plain.study(images), logits, temperature=20.0).mean()
            student.zero_grad()
            loss.backward()
            student.step()


def test_rounds_equal_the_authors_algorithm(teacher_checkpoints, tmp_path):
    cfg = shrink(CONFIG, teacher_checkpoints, tmp_path, ROUNDS)
    cfg.param_scheduler.student[0].update(begin=BEGIN, end=ROUNDS)
    generation, imitation = cfg.train_cfg.phases
    assert 'begin' not in generation
    assert cfg.model.generation[2].begin == imitation.begin - 1
    cfg.model.generation[2].begin = BEGIN - 1
    imitation.update(begin=BEGIN, steps=STEPS)
    cfg.model.generator.generator.capacity = 8 * ROUNDS
    runner, plain = prepare(cfg)
    runner.train()
    fastdfkd(plain)
    assert_as_rendered(runner, plain)
