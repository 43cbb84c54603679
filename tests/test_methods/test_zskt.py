"""ZSKT (arXiv 1905.09768): one batch of noise for one generator step and ten student steps, generator first."""

import torch
import torch.nn.functional as F
from harness import ROUNDS, Plain, assert_as_rendered, cosine, prepare, set_lr, shrink

CONFIG = 'zskt/zskt_resnet34-resnet18_1xb128_cifar10.py'
CLASSES = 10
# In place of the config's 5: the norm of the small generator's gradients is above it in one round, below in two.
CLIP_GENERATOR = 12


def attention(features):
    return F.normalize(features.pow(2).mean(1).view(features.size(0), -1))


def collect(backbone):
    """The outputs of the stages in the last forward pass."""
    stages = {}
    for name in ('layer1', 'layer2', 'layer3', 'layer4'):
        getattr(backbone, name).register_forward_hook(
            lambda module, inputs, output, name=name: stages.__setitem__(name, output)
        )
    return stages


def mean_divergence(student_logits, teacher_logits):
    """F.kl_div with the reduction 'mean', over images and classes. The config's weight is for ten classes."""
    student, teacher = F.log_softmax(student_logits, dim=1), F.softmax(teacher_logits, dim=1)
    return F.kl_div(student, teacher, reduction='batchmean') / CLASSES


def zskt(plain: Plain, rounds=ROUNDS):
    student = torch.optim.Adam(plain.student.parameters(), lr=2e-3)
    generator = torch.optim.Adam(plain.generator.parameters(), lr=1e-3)
    teacher_stages, student_stages = collect(plain.teacher.backbone), collect(plain.student.backbone)
    for i in range(rounds):
        set_lr(student, cosine(2e-3, i, rounds))
        set_lr(generator, cosine(1e-3, i, rounds))
        noise = next(plain.noise)
        images = plain.generator(noise)
        loss = -mean_divergence(plain.study(images), plain.teach(images))
        generator.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.generator.parameters(), CLIP_GENERATOR)
        generator.step()

        images = plain.generator(noise).detach()
        with torch.no_grad():
            teacher_logits = plain.teach(images)
        for _ in range(10):
            loss = mean_divergence(plain.study(images), teacher_logits)
            for name, features in student_stages.items():
                loss = loss + 250 * (attention(features) - attention(teacher_stages[name])).pow(2).mean()
            student.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.student.parameters(), 5)
            student.step()


def test_rounds_equal_the_authors_algorithm(teacher_checkpoints, tmp_path):
    cfg = shrink(CONFIG, teacher_checkpoints, tmp_path)
    for schedulers in cfg.param_scheduler.values():
        schedulers[0].end = ROUNDS
    assert cfg.optim_wrapper.generator.clip_grad == dict(max_norm=5)
    cfg.optim_wrapper.generator.clip_grad.max_norm = CLIP_GENERATOR
    runner, plain = prepare(cfg)
    runner.train()
    zskt(plain)
    assert_as_rendered(runner, plain)
