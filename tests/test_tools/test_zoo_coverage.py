"""The sweep on a model that passes, one that is refused and one that fails."""

import json
import os
import signal
import time

import pytest
from test_cli import call

from mmdfad.apis.zoo import Refused, fewer_layers, run_isolated

BACKBONE = "dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4)"
HEADS = dict(
    good="dict(type='LinearClsHead', num_classes=3, in_channels=32)",
    twin="dict(type='LinearClsHead', num_classes=7, in_channels=32, topk=(1,))",
    headless='None',
    broken="dict(type='LinearClsHead', num_classes=3, in_channels=33)",
)


@pytest.fixture
def sweep(tmp_path):
    """Runs the tool on some of the four configs."""
    for name, head in HEADS.items():
        (tmp_path / f'{name}.py').write_text(
            f"default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier', backbone={BACKBONE},\n"
            f"    neck=dict(type='GlobalAveragePooling'), head={head})\n"
        )

    def run(*names):
        configs = [tmp_path / f'{name}.py' for name in names]
        files = ['--json', tmp_path / 'zoo.json', '--table', tmp_path / 'zoo.md']
        result = call('analysis_tools/zoo_coverage.py', *files, '--jobs', 2, '--configs', *configs)
        assert 'Traceback' not in result.stderr, result.stderr
        return result, json.loads((tmp_path / 'zoo.json').read_text()), (tmp_path / 'zoo.md').read_text()

    return run


def test_sweep_and_resume(sweep, tmp_path):
    result, content, _ = sweep('good', 'broken')
    assert result.returncode == 1
    assert result.stdout.endswith('1 passed, 0 refused, 1 failed\n')
    assert (content['passed'], content['refused'], content['failed']) == (1, 0, 1)
    assert all(r.keys() == {'config', 'role', 'status', 'reason', 'seconds'} for r in content['results'])
    assert {(os.path.basename(r['config']), r['role'], r['status']) for r in content['results']} == {
        (f'{name}.py', role, status)
        for name, status in (('good', 'passed'), ('broken', 'failed'))
        for role in ('teacher', 'student')
    }

    result, content, table = sweep(*HEADS)
    assert result.returncode == 1
    assert '4 configs, 3 different models' in result.stdout  # the two good ones differ in their data alone
    assert 'passed' not in result.stdout.partition('models\n')[2].rpartition('2 passed')[0]  # that one is known
    assert 'broken.py: ' in result.stdout  # what failed is tried again
    assert (content['passed'], content['refused'], content['failed']) == (2, 1, 1)
    by_name = {(os.path.basename(r['config']), r['role']): r for r in content['results']}
    assert '32x32' in by_name['twin.py', 'student']['reason']
    assert 'gives no class logits' in by_name['headless.py', 'teacher']['reason']
    assert 'cannot be multiplied' in by_name['broken.py', 'student']['reason']
    assert f'| {tmp_path.name} | 4 | 2 | 1 | 1 |' in table
    assert content['versions'].keys() >= {'torch'}
    assert all(f'{name} {version}' in table for name, version in content['versions'].items())


def misbehave(how: str) -> str:
    if how == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
    if how == 'hang':
        time.sleep(600)
    if how == 'fill':
        hoard = []
        while True:
            hoard.append(b'x' * 2**28)
    return how


def test_what_goes_wrong_in_a_process_stays_there():
    def outcome(how, **limits):
        return next(run_isolated([(how,)], misbehave, workers=1, **limits))[:3]

    assert outcome('die', seconds=300, memory=9) == (('die',), 'failed', 'its process ended with exit code -9')
    assert outcome('hang', seconds=0.5, memory=9) == (('hang',), 'failed', 'took more than 0.5 s')
    assert outcome('fill', seconds=300, memory=3) == (('fill',), 'memory', 'took more than 3 GiB of memory')
    assert outcome('end', seconds=300, memory=9) == (('end',), 'passed', 'end')


def test_layers_are_left_out_of_models_that_are_too_large():
    assert fewer_layers('mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py') == {
        'model.backbone.arch': dict(_delete_=True, embed_dims=96, depths=[1] * 4, num_heads=[3, 6, 12, 24])
    }
    assert fewer_layers('mmseg::vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py') == {
        'model.backbone.num_layers': 4,
        'model.backbone.out_indices': [0, 1, 2, 3],
    }
    with pytest.raises(Refused, match='does not tell'):
        fewer_layers('mmpretrain::lenet/lenet5_mnist.py')
