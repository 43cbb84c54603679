"""The table of ``--student auto``."""

from functools import partial
from pathlib import Path

import pytest
import torch
from in_process import call_here
from tiny_configs import SWIN, save_untrained, write_tiny

from mmdfad.apis import student_sizes
from mmdfad.apis.shrink import shrink
from mmdfad.apis.sizes import FLAGS
from mmdfad.models.build import build_network, plain_config
from mmdfad.utils.model import model_size

LENET = 'mmpretrain::lenet/lenet5_mnist.py'
RATIOS = {
    'auto:0.75': dict(width=0.75),
    'auto:0.5': dict(width=0.5),
    'auto:0.25': dict(width=0.25),
    'auto:depth=0.5': dict(depth=0.5),
    'auto:width=0.5,depth=0.5': dict(width=0.5, depth=0.5),
}


@pytest.fixture
def tiny(tmp_path):
    return partial(write_tiny, tmp_path)


def checkpoint_of(config: str | Path, tmp_path: Path) -> str:
    return str(save_untrained(config, tmp_path / 'teacher.pth'))


def test_sizes_are_those_of_the_students_that_a_run_would_train(tmp_path, tiny):
    teacher = tiny('teacher', backbone__depth=34)
    found = student_sizes(str(teacher), checkpoint_of(teacher, tmp_path))
    assert tuple(found.models) == ('teacher', *RATIOS) == ('teacher', *FLAGS)
    assert found.problems == {}
    assert found.image_shape == (3, 16, 16)
    plain = plain_config(dict(cfg_path=str(teacher)), 'teacher')
    options = {flag: shrink(plain, **ratios) for flag, ratios in RATIOS.items()}
    for flag, own in found.models.items():
        network = build_network(dict(cfg_path=str(teacher), cfg_options=options.get(flag)), 'student').eval()
        with torch.no_grad():
            expected = model_size(network.logits, torch.zeros(2, 3, 16, 16))
        assert (own.params, own.flops) == (expected.params, expected.flops), flag
        assert 0 < own.seconds < 10
    sizes = [size.params for size in found.models.values()]
    assert sizes[:4] == sorted(sizes[:4], reverse=True)


def test_the_table_has_the_shares_of_the_teachers(tmp_path, tiny):
    teacher = tiny('teacher')
    result = call_here(
        'distill.py', '--teacher', teacher, '--checkpoint', checkpoint_of(teacher, tmp_path), '--student', 'auto',
        '--image-size', 24, 32, cwd=tmp_path, check=True,
    )  # fmt: skip
    rows = {cells[0]: cells[1:] for cells in map(str.split, result.stdout.splitlines()) if len(cells) == 9}
    assert [*rows] == ['teacher', 'auto:0.75', 'auto:0.5', 'auto:0.25']
    for cells in rows.values():
        numbers = [float(cells[i].replace(',', '')) for i in (0, 2, 5)]
        whole = [float(rows['teacher'][i].replace(',', '')) for i in (0, 2, 5)]
        shares = [float(cells[i].rstrip('%')) for i in (1, 4, 7)]
        assert shares == pytest.approx([100 * own / all_ for own, all_ in zip(numbers, whole, strict=True)], abs=1.5)
    assert 'one image of 3x24x32, on ' in result.stdout
    assert '  auto:depth=0.5: cannot make a ResNet_CIFAR of depth 18 shallower by that ratio\n' in result.stdout
    assert not (tmp_path / 'work_dirs').exists()


@pytest.mark.parametrize(
    ('backbone', 'width', 'depth'),
    [
        (None, 'cannot make backbone=LeNet5 narrower', 'cannot make backbone=LeNet5 shallower'),
        (
            SWIN,
            'leaves the backbone all of its 1 attention heads, and these give its width',
            'cannot make a SwinTransformer with [1, 1] blocks in its stages shallower by that ratio',
        ),
    ],
    ids=['unknown', 'heads'],
)
def test_why_a_size_cannot_be_made(tmp_path, tiny, backbone, width, depth):
    teacher = LENET if backbone is None else tiny('teacher', backbone=backbone, head__in_channels=16, pixels=32)
    found = student_sizes(str(teacher), checkpoint_of(teacher, tmp_path))
    assert [*found.models] == ['teacher']
    assert found.problems == {flag: depth if 'depth' in flag else width for flag in FLAGS}


def test_errors_are_one_line(tmp_path):
    flags = ('--teacher', LENET, '--checkpoint', 'no.pth', '--student', 'auto')
    result = call_here('distill.py', *flags, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("mmdfad: error: model.teacher.checkpoint='")
    assert "no.pth' does not exist" in result.stderr
