"""DFAD (arXiv 1912.11006), algorithm 1: five student steps on fresh noise, then one generator step."""

import pytest
import torch
from harness import ROUNDS, Plain, assert_as_rendered, prepare, set_lr, shrink

CONFIGS = {
    'dfad/dfad_resnet34-resnet18_1xb256_cifar10.py': lambda distance: -distance,
    'dfad/dfad_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128.py': lambda distance: -torch.log(distance + 1),
}


def dfad(plain: Plain, adversary, rounds=ROUNDS):
    student = torch.optim.SGD(plain.student.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    generator = torch.optim.Adam(plain.generator.parameters(), lr=1e-3)
    for i in range(rounds):
        set_lr(student, 0.1 * 0.1**i)
        set_lr(generator, 1e-3 * 0.1**i)
        for _ in range(5):
            images = plain.generator(next(plain.noise)).detach()
            loss = (plain.study(images) - plain.teach(images)).abs().mean()
            student.zero_grad()
            loss.backward()
            student.step()
        images = plain.generator(next(plain.noise))
        loss = adversary((plain.study(images) - plain.teach(images)).abs().mean())
        generator.zero_grad()
        loss.backward()
        generator.step()


@pytest.mark.parametrize('config', CONFIGS)
def test_rounds_equal_the_papers_algorithm(config, teacher_checkpoints, tmp_path):
    cfg = shrink(config, teacher_checkpoints, tmp_path)
    for schedulers in cfg.param_scheduler.values():
        schedulers[0].milestones = [1, 2]
    runner, plain = prepare(cfg)
    runner.train()
    dfad(plain, CONFIGS[config])
    assert_as_rendered(runner, plain)
