"""DFQ (arXiv 2005.04136): one generator step against the teacher's statistics, then ten student steps."""

import pytest
import torch
import torch.nn.functional as F
from harness import (
    ROUNDS,
    NormStatistics,
    Plain,
    assert_as_rendered,
    cosine,
    divergence,
    prepare,
    set_lr,
    shrink,
)

# The weight of the balance of classes.
CONFIGS = {
    'dfq/dfq_resnet34-resnet18_1xb256_cifar10.py': 20,
    'dfq/dfq_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128.py': 0,
}


def dfq(plain: Plain, balance, rounds=ROUNDS):
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

        plain.student.train()
        for _ in range(10):
            with torch.no_grad():
                images = plain.generator(next(plain.noise))
                logits = plain.teach(images)
            loss = divergence(plain.study(images), logits).mean()
            student.zero_grad()
            loss.backward()
            student.step()


@pytest.mark.parametrize('config', CONFIGS)
def test_rounds_equal_a_plain_rendering(config, teacher_checkpoints, tmp_path):
    cfg = shrink(config, teacher_checkpoints, tmp_path)
    cfg.param_scheduler.student[0].end = ROUNDS
    runner, plain = prepare(cfg)
    runner.train()
    dfq(plain, CONFIGS[config])
    assert_as_rendered(runner, plain)
