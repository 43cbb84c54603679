"""The tools as a user calls them. One run and one error have processes of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, TINY, TINY_SEG, write_camvid
from in_process import call_here


def call(tool: str, *arguments, cwd=ROOT, **environment):
    """In a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), **environment},
    )


def train(work_dir, teacher, *arguments, call=call_here):
    options = [f'model.teacher.checkpoint={teacher}', *(a for a in arguments if '=' in a)]
    flags = [a for a in arguments if '=' not in a]
    return call('train.py', TINY, '--work-dir', work_dir, *flags, '--cfg-options', *options)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, teacher_checkpoint) -> Path:
    """The work directory of a run of two rounds."""
    work_dir = tmp_path_factory.mktemp('trained')
    result = train(work_dir, teacher_checkpoint, 'train_cfg.max_iters=2', 'train_cfg.val_interval=1', call=call)
    assert result.returncode == 0, result.stderr
    return work_dir


def test_without_data_agreement_on_noise_is_validated(trained):
    log = next(trained.glob('*/*.log')).read_text()
    assert len(re.findall(r'Iter\(val\) .*agreement: [01]\.\d+', log)) == 2


def test_all_flags(tmp_path, teacher_checkpoint):
    result = train(
        tmp_path,
        teacher_checkpoint,
        '--amp',
        '--no-validate',
        '--auto-scale-lr',
        '--no-pin-memory',
        '--no-persistent-workers',
        '--resume',
        'train_cfg.max_iters=1',
        'train_dataloader.num_workers=1',
    )
    assert result.returncode == 0, result.stderr
    assert 'Nothing to resume' in result.stdout
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert re.search(r'Computing in \w+, the fastest type of this ', log)
    assert 'Iter(val)' not in log
    assert 'Scaling the original LR by 0.03125' in log  # batch 8 of 256
    assert re.search(r'pin_memory=False', log)
    assert re.search(r'persistent_workers=False', log)


def test_the_default_work_directory(tmp_path, teacher_checkpoint):
    options = [f'model.teacher.checkpoint={teacher_checkpoint}', 'train_cfg.max_iters=1']
    call_here('train.py', TINY, '--no-validate', '--cfg-options', *options, cwd=tmp_path, check=True)
    assert (tmp_path / 'work_dirs/tiny/student.pth').exists()


def test_preflight_warns_of_the_teacher(tmp_path, trained, teacher_checkpoint):
    result = train(tmp_path, teacher_checkpoint, '--preflight', 'train_cfg.max_iters=1')
    assert result.returncode == 0, result.stderr
    warning = 'WARNING - head.fc of the teacher gives the logits, but its bias is 0'
    assert warning in next(tmp_path.glob('*/*.log')).read_text()
    assert warning not in next(trained.glob('*/*.log')).read_text()


def test_students_of_training_checkpoints_and_exported_ones_test_alike(trained, tmp_path, teacher_checkpoint):
    images = tmp_path / 'images'
    generator = np.random.default_rng(0)
    for i in range(20):
        folder = images / 'abcde'[i % 5]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i}.png'), generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    config = tmp_path / 'with_data.py'
    config.write_text(
        f"_base_ = '{TINY}'\n"
        "test_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),\n"
        f"    dataset=dict(type='CustomDataset', data_root='{images}',\n"
        "        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))\n"
        "test_evaluator = dict(type='Accuracy', topk=(1,))\n"
        'test_cfg = dict()\n'
    )
    out = tmp_path / 'exported'
    exported = call_here('export_student.py', config, trained / 'iter_2.pth', '--out-dir', out)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.split()[-2:] == [str(out / 'student.py'), str(out / 'student.pth')]

    def top1(*arguments):
        result = call_here('test.py', *arguments, '--work-dir', tmp_path / 'test')
        assert result.returncode == 0, result.stderr
        return re.findall(r'accuracy/top1: (\S+)', result.stdout + result.stderr)[-1], result.stdout + result.stderr

    in_training, log = top1(
        config, trained / 'iter_2.pth', '--agreement', '--cfg-options', f'model.teacher.checkpoint={teacher_checkpoint}'
    )
    assert re.search(r'agreement: [01]\.\d+', log)
    assert top1(out / 'student.py', out / 'student.pth', '--out', tmp_path / 'predictions.pkl')[0] == in_training
    assert top1(config, trained / 'student.pth')[0] == in_training
    assert (tmp_path / 'predictions.pkl').stat().st_size > 0


@pytest.mark.slow
def test_segmentor_without_data_trains_and_is_drawn_with_some(tmp_path, teacher_checkpoints):
    config = tmp_path / 'seg.py'
    dataset = f"dict(type='mmdfad.CamVidDataset', data_root='{tmp_path}/camvid', ann_file='train.txt', pipeline=["
    dataset += "dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), dict(type='LoadAnnotations'),"
    dataset += "dict(type='PackSegInputs')])"
    config.write_text(
        f"_base_ = '{TINY_SEG}'\n"
        f'val_dataloader = dict(batch_size=1, num_workers=0, dataset={dataset},'
        "sampler=dict(type='DefaultSampler', shuffle=False))\n"
        "val_evaluator = dict(type='IoUMetric')\nval_cfg = dict()\n"
        'test_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, val_cfg\n'
    )
    teacher = ['--cfg-options', f'model.teacher.checkpoint={teacher_checkpoints[TINY_SEG]}']
    rounds = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    result = call_here('train.py', config, '--work-dir', tmp_path / 'run', *teacher, *rounds)
    assert result.returncode == 0, result.stderr
    assert 'No validation data' in result.stdout + result.stderr
    assert re.search(r'Iter\(val\) .*agreement: [01]\.\d+', result.stdout + result.stderr)

    write_camvid(tmp_path / 'camvid')
    result = call(
        'test.py', config, tmp_path / 'run/student.pth', '--agreement', '--work-dir', tmp_path / 't', *teacher
    )
    assert re.search(r'mIoU: \d.*agreement: [01]\.\d+', result.stdout + result.stderr), result.stderr
    picture = tmp_path / 'figure.png'
    out = ['--out', picture, '--count', '2', '--work-dir', tmp_path / 'v']
    result = call_here('visualize.py', config, tmp_path / 'run/iter_2.pth', *out, *teacher)
    assert result.returncode == 0, result.stderr
    assert cv2.imread(str(picture)).std() > 10


def test_launchers_are_valid_shell_and_torchrun_is_called_right(tmp_path):
    fake = tmp_path / 'bin/torchrun'
    fake.parent.mkdir()
    fake.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'bin/srun').write_text(fake.read_text())
    for tool in fake.parent.iterdir():
        tool.chmod(0o755)
    environment = {**os.environ, 'PATH': f'{fake.parent}:{os.environ["PATH"]}'}

    def sh(script, *arguments, **variables):
        result = subprocess.run(
            ['bash', str(ROOT / 'tools' / script), *arguments],
            capture_output=True,
            text=True,
            env={**environment, **variables},
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    words = sh('dist_train.sh', 'c.py', '4', '--amp', NNODES='2', NODE_RANK='1', PORT='3', MASTER_ADDR='h')
    assert words[:5] == ['--nnodes=2', '--node_rank=1', '--master_addr=h', '--master_port=3', '--nproc_per_node=4']
    assert words[5].endswith('tools/train.py')
    assert words[6:] == ['c.py', '--launcher', 'pytorch', '--amp']
    words = sh('dist_test.sh', 'c.py', 'x.pth', '2', '--out', 'a b.pkl')
    assert words[-6:] == ['c.py', 'x.pth', '--launcher', 'pytorch', '--out', 'a b.pkl']
    words = sh('slurm_test.sh', 'part', 'job', 'c.py', 'x.pth', '--tta', GPUS='16', GPUS_PER_NODE='8')
    assert words[-5:] == ['c.py', 'x.pth', '--launcher', 'slurm', '--tta']
    words = sh('slurm_train.sh', 'part', 'job', 'c.py', 'work', '--amp', GPUS='16', GPUS_PER_NODE='8')
    assert {'-p', 'part', '--job-name=job', '--ntasks=16', '--ntasks-per-node=8', '--gres=gpu:8'} <= set(words)
    assert words[-5:] == ['c.py', '--work-dir=work', '--launcher', 'slurm', '--amp']


# Bad input ends with one line, exit status 1 and no traceback.


def fails(result, message):
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    error = result.stderr[result.stderr.index('mmdfad: error:') :]
    assert re.search(message, error), error


def test_wrong_teacher_path(tmp_path):
    fails(train(tmp_path, '/no/teacher.pth', call=call), r"model.teacher.checkpoint='/no/teacher.pth' does not exist")


def test_teacher_without_checkpoint(tmp_path):
    fails(train(tmp_path, 'None'), r'the teacher has no weights: set model.teacher.checkpoint')


def test_unwritable_work_dir(tmp_path, teacher_checkpoint):
    (tmp_path / 'file').write_text('')
    fails(train(tmp_path / 'file/run', teacher_checkpoint), r'cannot write to the work directory .*--work-dir')


def test_segmentation_without_teacher_tells_how_to_make_one(tmp_path):
    config = ROOT / 'configs/dfad/dfad_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128.py'
    result = call_here('train.py', config, '--work-dir', tmp_path)
    fails(result, r'epoch_200.pth\' does not exist; .* or make it with\n  python tools/dataset_converters/camvid.py')
    assert 'python tools/train.py configs/teachers/deeplabv3_r50_camvid.py' in result.stderr


def test_unknown_type(tmp_path, teacher_checkpoint):
    result = train(tmp_path, teacher_checkpoint, 'train_cfg.type=mmdfad.NoSuchLoop')
    fails(result, r"train_cfg.type='mmdfad.NoSuchLoop' is unknown")


def test_missing_and_broken_configs(tmp_path):
    fails(call_here('train.py', tmp_path / 'no.py'), r'cannot read the config .*no.py')
    (tmp_path / 'broken.py').write_text('a = (')
    fails(call_here('train.py', tmp_path / 'broken.py'), r'cannot read the config .*broken.py: SyntaxError')


def test_damaged_checkpoints(tmp_path, trained, teacher_checkpoint):
    damaged = tmp_path / 'iter_9.pth'
    damaged.write_bytes((trained / 'iter_2.pth').read_bytes()[:1000])
    fails(train(tmp_path, teacher_checkpoint, '--resume', str(damaged)), r'iter_9.pth is corrupt, truncated or not')
    fails(call_here('test.py', trained / 'student.py', damaged), r'no test_dataloader')
    fails(call_here('export_student.py', TINY, damaged), r'iter_9.pth is corrupt, truncated or not')
    fails(call_here('export_student.py', TINY, tmp_path / 'no.pth'), r'checkpoint .*no.pth does not exist')
