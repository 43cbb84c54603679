"""MAD (arXiv 2209.10359): DFQ, whose student learns from the generator and from its moving average."""

import copy

import pytest
import torch
from dfq import render_dfq
from harness import ROUNDS, Plain, assert_as_rendered, assert_equal, prepare, shrink

# The weight of the balance of classes.
CONFIGS = {
    'mad/mad_resnet34-resnet18_1xb256_cifar10.py': 20,
    'mad/mad_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128.py': 0,
}


def mad(plain: Plain, balance):
    average = copy.deepcopy(plain.generator)

    @torch.no_grad()
    def move_average():
        for slow, own in zip(average.parameters(), plain.generator.parameters(), strict=True):
            slow.copy_(0.95 * slow + 0.05 * own)

    def sample(noise):
        new, old = noise.chunk(2)
        return torch.cat([plain.generator(new), average(old)])

    render_dfq(plain, balance, sample, move_average)
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
