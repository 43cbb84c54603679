"""DAFL (arXiv 1904.01186): the authors' joint step of generator and student on one batch."""

import torch
import torch.nn.functional as F
from harness import ROUNDS, Plain, assert_as_rendered, prepare, set_lr, shrink

CONFIG = 'dafl/dafl_resnet34-resnet18_1xb1024_cifar10.py'


def dafl(plain: Plain, rounds=ROUNDS):
    student = torch.optim.SGD(plain.student.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    generator = torch.optim.Adam(plain.generator.parameters(), lr=0.02)
    features = []
    plain.teacher.head.fc.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    for i in range(rounds):
        set_lr(student, 0.1 * 0.1**i)
        student.zero_grad()
        generator.zero_grad()
        images = plain.generator(next(plain.noise))
        logits = plain.teach(images)
        one_hot = F.cross_entropy(logits, logits.data.max(1)[1])
        activation = -features[-1].abs().mean()
        mean = F.softmax(logits, dim=1).mean(dim=0)
        entropy = (mean * torch.log10(mean)).sum()
        loss = 0.05 * one_hot + 5 * entropy + 0.01 * activation
        imitation = F.kl_div(
            F.log_softmax(plain.study(images.detach()), dim=1), F.softmax(logits.detach(), dim=1), reduction='sum'
        )
        (loss + imitation / len(images)).backward()
        generator.step()
        student.step()


def test_rounds_equal_the_authors_joint_step(teacher_checkpoints, tmp_path):
    cfg = shrink(CONFIG, teacher_checkpoints, tmp_path)
    cfg.param_scheduler.student[0].milestones = [1, 2]
    runner, plain = prepare(cfg)
    runner.train()
    dafl(plain)
    assert_as_rendered(runner, plain)
