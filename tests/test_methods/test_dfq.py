"""DFQ (arXiv 2005.04136): one generator step against the teacher's statistics, then ten student steps."""

import pytest
from dfq import render_dfq
from harness import ROUNDS, assert_as_rendered, prepare, shrink

# The weight of the balance of classes.
CONFIGS = {
    'dfq/dfq_resnet34-resnet18_1xb256_cifar10.py': 20,
    'dfq/dfq_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128.py': 0,
}


@pytest.mark.parametrize('config', CONFIGS)
def test_rounds_equal_a_plain_rendering(config, teacher_checkpoints, tmp_path):
    cfg = shrink(config, teacher_checkpoints, tmp_path)
    cfg.param_scheduler.student[0].end = ROUNDS
    runner, plain = prepare(cfg)
    runner.train()
    render_dfq(plain, CONFIGS[config])
    assert_as_rendered(runner, plain)
