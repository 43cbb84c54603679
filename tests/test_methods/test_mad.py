"""MAD (arXiv 2209.10359): DFQ, whose student learns from the generator and from its moving average."""

import copy

import pytest
import torch
import torch.nn.functional as F
from harness import (
    ROUNDS,
    NormStatistics,
    Plain,
    assert_as_rendered,
    assert_equal,
    cosine,
    divergence,
    prepare,
    set_lr,
    shrink,
)

# The weight of the balance of classes.
CONFIGS = {
    'mad/mad_resnet34-resnet18_1xb256_cifar10.py': 20,
    'mad/mad_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128.py': 0,
}


def mad(plain: Plain, balance, rounds=ROUNDS):
    student = torch.optim.SGD(plain.student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    generator = torch.optim.Adam(plain.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    average = copy.deepcopy(plain.generator)
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
        with torch.no_grad():
            for slow, own in zip(average.parameters(), plain.generator.parameters(), strict=True):
                slow.copy_(0.95 * slow + 0.05 * own)

        plain.student.train()
        for _ in range(10):
            with torch.no_grad():
                new, old = next(plain.noise).chunk(2)
                images = torch.cat([plain.generator(new), average(old)])
                logits = plain.teach(images)
            loss = divergence(plain.study(images), logits).mean()
            student.zero_grad()
            loss.backward()
            student.step()
    return average


@pytest.mark.parametrize('config', CONFIGS)
def test_rounds_equal_a_plain_rendering(config, teacher_checkpoints, tmp_path):
    cfg = shrink(config, teacher_checkpoints, tmp_path)
    cfg.param_scheduler.student[0].end = ROUNDS
    runner, plain = prepare(cfg)
    runner.train()
    average = mad(plain, CONFIGS[config])
    assert_as_rendered(runner, plain)
    assert_equal(runner.model.generator.average, average, buffers=False)
