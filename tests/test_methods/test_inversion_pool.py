"""Model inversion by a generator that learns one batch after another, and a student that learns from all of them."""

import torch
import torch.nn.functional as F
from harness import NORM, Plain, assert_as_rendered, cosine, differences, divergence, prepare, set_lr

from mmdfad.models.chance import FLIPS, LABELS, MEMORY, SHIFTS, uniform

CLASSES = 5
ROUNDS, STEPS, CAPACITY = 3, 3, 20
DECODER = dict(type='DecoderGenerator', noise_dim=16, image_size=16, width=4, upsamplings=3)


def augment(images, noise, draw):
    """Flip images, and crop them from a reflected border of 2 pixels, each in its own way."""
    flips = uniform(noise, FLIPS, draw + 1)[:, draw]
    shifts = uniform(noise, SHIFTS, 2 * draw + 2)[:, 2 * draw :]
    changed = []
    for image, flip, (y, x) in zip(images, flips, (shifts * 5).long().tolist(), strict=True):
        image = torch.flip(image, [2]) if flip < 0.5 else image
        padded = F.pad(image[None], [2, 2, 2, 2], mode='reflect')[0]
        changed.append(padded[:, y : y + image.shape[1], x : x + image.shape[2]])
    return torch.stack(changed)


class Statistics:
    """The mean KL divergence of a teacher's batch norm inputs from its running statistics."""

    def __init__(self, teacher):
        self.norms = [module for module in teacher.modules() if isinstance(module, NORM)]
        for norm in self.norms:
            norm.register_forward_hook(self.hook)

    def hook(self, norm, inputs, output):
        mean = inputs[0].mean((0, 2, 3))
        var = (inputs[0] - mean.view(-1, 1, 1)).square().mean((0, 2, 3)) + norm.eps
        normal, own = (torch.distributions.Normal(m, v.sqrt()) for m, v in self.pairs(norm, mean, var))
        norm.divergence = torch.distributions.kl_divergence(own, normal).mean()

    def pairs(self, norm, mean, var):
        return (norm.running_mean, norm.running_var + norm.eps), (mean, var)

    def loss(self):
        return sum(norm.divergence for norm in self.norms) / len(self.norms)


def invert_and_imitate(plain: Plain):
    """Two generator steps are accumulated. Of the nine, the last is alone."""
    student = torch.optim.SGD(plain.student.parameters(), lr=0.1, momentum=0.9)
    weights = torch.optim.Adam(plain.generator.parameters(), lr=0.01, betas=(0.5, 0.999))
    statistics, made, count = Statistics(plain.teacher), [], 0
    for i in range(ROUNDS):
        set_lr(weights, cosine(0.01, i, 20))
        noise = next(plain.noise)
        targets = (uniform(noise, LABELS)[:, 0] * CLASSES).long()
        z = noise.clone().requires_grad_()
        vectors = torch.optim.Adam([z], lr=0.03, betas=(0.5, 0.999))
        for step in range(STEPS):
            images = plain.generator(z)
            augmented = augment(images, noise, step)
            smooth = (augmented[:, :, 1:] - augmented[:, :, :-1]).abs().mean()
            smooth = smooth + (augmented[..., 1:] - augmented[..., :-1]).abs().mean()
            logits = plain.teach(augmented)
            loss = statistics.loss() + 0.1 * F.cross_entropy(logits, targets) + 0.05 * smooth / 2
            weight_gradients = torch.autograd.grad(loss, [*plain.generator.parameters()], retain_graph=True)
            (z.grad,) = torch.autograd.grad(loss * len(noise), z)
            z.grad[:, [0, -1]] = 0
            vectors.step()
            count += 1
            for parameter, gradient in zip(plain.generator.parameters(), weight_gradients, strict=True):
                share = gradient if count == ROUNDS * STEPS else gradient / 2
                parameter.grad = share if parameter.grad is None else parameter.grad + share
            if count % 2 == 0 or count == ROUNDS * STEPS:
                weights.step()
                weights.zero_grad()
        made += images.detach()

        for _ in range(2):
            noise = next(plain.noise)
            # The memory is a ring.
            kept = list(made[:CAPACITY])
            for number, image in enumerate(made[CAPACITY:]):
                kept[number] = image
            images = torch.stack(kept)[(uniform(noise, MEMORY)[:, 0] * len(kept)).long()]
            with torch.no_grad():
                logits = plain.teach(images)
            loss = divergence(plain.study(images), logits).mean()
            student.zero_grad()
            loss.backward()
            student.step()
    return torch.stack(kept)


def test_rounds_equal_a_plain_rendering(tiny_cfg):
    cfg = tiny_cfg
    cfg.model.generator = dict(
        type='InversionPool', generator=DECODER, capacity=CAPACITY, steps=STEPS, noise_lr=0.03, shift=2
    )
    cfg.model.generation = [
        dict(type='BNStatisticsPrior', distance='kl'),
        dict(type='DrawnLabelPrior', weight=0.1),
        dict(type='TotalVariationPrior', weight=0.05),
    ]
    cfg.model.imitation = [dict(type='KLDiscrepancy')]
    cfg.optim_wrapper.amp_dtype = 'float32'
    cfg.optim_wrapper.student = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
    cfg.optim_wrapper.generator = dict(optimizer=dict(type='Adam', lr=0.01, betas=(0.5, 0.999)), accumulative_counts=2)
    cfg.param_scheduler.student = []
    cfg.train_dataloader.dataset.type = 'mmdfad.DoubleNoise'
    cfg.train_cfg.update(max_iters=ROUNDS, phases=[dict(name='generation', steps=1), dict(name='imitation', steps=2)])
    cfg.default_hooks = dict(param_scheduler=cfg.default_hooks.param_scheduler, checkpoint=None)
    runner, plain = prepare(cfg)
    runner.train()
    images = invert_and_imitate(plain)
    assert_as_rendered(runner, plain)
    assert max(differences(dict(images=runner.model.generator.memory.images), dict(images=images)).values()) < 1e-9
