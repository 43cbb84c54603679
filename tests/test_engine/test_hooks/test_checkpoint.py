import os
import re

import pytest
import torch
from conftest import (
    assert_same_state,
    both_tasks,
    build_runner,
    hook_of,
    keep_hooks,
    run,
    save_teacher,
)
from mmengine.hooks import Hook

from mmdfad.engine.hooks import DistillCheckpointHook
from mmdfad.engine.optim import pending_gradients, restore_gradients
from mmdfad.utils import DistillError
from mmdfad.utils.atomic import atomic_write


@pytest.fixture
def bare_cfg(tiny_cfg):
    """The tiny distillation with checkpoints and acceleration, and nothing else."""
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration')
    return tiny_cfg


class FillDisk(Hook):
    """Lets no file be written from a round on, as a full disk does."""

    def __init__(self, round_index, monkeypatch):
        self.round_index, self.monkeypatch = round_index, monkeypatch

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == self.round_index:

            def no_space(descriptor):
                raise OSError(28, 'No space left on device')

            self.monkeypatch.setattr(os, 'fsync', no_space)


def names_in(folder, pattern):
    return sorted(path.name for path in folder.glob(pattern))


# What is in a checkpoint.


@both_tasks
def test_checkpoint_holds_student_and_generator_and_signs_the_teacher(bare_cfg, tmp_path):
    runner = run(bare_cfg, train_cfg__max_iters=2)
    checkpoint = torch.load(tmp_path / 'run/iter_2.pth', weights_only=False)
    assert {key.split('.')[0] for key in checkpoint['state_dict']} == {'student', 'generator'}
    assert checkpoint['optimizer'].keys() == {'student', 'generator'}
    assert checkpoint['param_schedulers'].keys() == {'student', 'generator'}
    assert checkpoint['meta']['iter'] == 2
    assert checkpoint['meta']['ranks'] == dict(world_size=1, batch_size=bare_cfg.train_dataloader.batch_size)
    teacher = dict(checkpoint=bare_cfg.model.teacher.checkpoint, sha256=runner.model.teacher_record['sha256'])
    assert checkpoint['meta']['teacher'] == teacher
    assert 'gradients' not in checkpoint
    teacher_size = sum(t.numel() for t in runner.model.teacher.logits.state_dict().values())
    assert teacher_size > 3 * sum(t.numel() for t in runner.model.student.state_dict().values())


def test_gradients_in_the_middle_of_an_update_are_saved(bare_cfg, tmp_path):
    """After two steps of the student's three. The generator's are complete."""
    bare_cfg.optim_wrapper.student.accumulative_counts = 3
    run(bare_cfg, train_cfg__max_iters=2, default_hooks__checkpoint__interval=1)
    checkpoint = torch.load(tmp_path / 'run/iter_1.pth', weights_only=False)
    assert checkpoint['gradients'].keys() == {'student'}
    runner = build_runner(bare_cfg)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)['student']
    assert pending_gradients(wrapper) == {}
    restore_gradients(wrapper, checkpoint['gradients']['student'])
    assert_same_state(pending_gradients(wrapper), checkpoint['gradients']['student'])
    restore_gradients(wrapper, {})
    assert pending_gradients(wrapper) == {}
    # The last update of a run takes what there is, so nothing is pending.
    assert 'gradients' not in torch.load(tmp_path / 'run/iter_2.pth', weights_only=False)


# Which files there are.


def test_old_checkpoints_go_after_the_new_is_complete(bare_cfg, tmp_path, monkeypatch):
    present = []
    write = atomic_write

    def spy(path, content):
        present.append((os.path.basename(path), names_in(tmp_path / 'run', 'iter_*.pth')))
        write(path, content)

    monkeypatch.setattr('mmdfad.utils.atomic.atomic_write', spy)
    run(bare_cfg, default_hooks__checkpoint__max_keep_ckpts=1)
    assert names_in(tmp_path / 'run', 'iter_*.pth') == ['iter_6.pth']
    assert present == [('iter_2.pth', []), ('iter_4.pth', ['iter_2.pth']), ('iter_6.pth', ['iter_4.pth'])]
    assert (tmp_path / 'run/last_checkpoint').read_text() == str(tmp_path / 'run/iter_6.pth')


def test_number_of_kept_checkpoints_survives_a_resume(bare_cfg, tmp_path):
    run(bare_cfg, train_cfg__max_iters=4)
    run(bare_cfg, resume=True, train_cfg__max_iters=8)
    assert names_in(tmp_path / 'run', '*.pth') == ['iter_6.pth', 'iter_8.pth']


@pytest.mark.parametrize('exporting', [True, False])
def test_full_disk_keeps_the_last_checkpoint(tiny_cfg, tmp_path, monkeypatch, exporting):
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration', *(['export_student'] if exporting else []))
    runner = build_runner(tiny_cfg)
    runner.register_hook(FillDisk(2, monkeypatch))
    with pytest.raises(DistillError, match=r'(?i)cannot write .*No space left on device.*make room, or'):
        runner.train()
    monkeypatch.undo()
    names = names_in(tmp_path / 'run', '*')
    assert 'iter_2.pth' in names
    assert 'iter_4.pth' not in names
    assert not any('partial' in name for name in names)
    run(tiny_cfg, resume=True, train_cfg__max_iters=3)


@pytest.mark.parametrize('part', ['student', 'generator'])
def test_diverged_weights_are_not_saved(bare_cfg, part):
    """The loss of the round was still finite; only the last update broke the weights."""

    class Break(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if batch_idx == 3:
                next(getattr(runner.model, part).parameters()).data[0] = float('inf')

    runner = build_runner(bare_cfg)
    runner.register_hook(Break())
    with pytest.raises(DistillError, match=rf'not saving round 4: {part}\..* not finite, the {part} has diverged'):
        runner.train()
    run(bare_cfg, resume=True, train_cfg__max_iters=3)


def test_save_best_by_agreement_on_noise(bare_cfg, tmp_path):
    noise = dict(type='mmdfad.NoiseDataset', seed=1, length=20)
    run(
        bare_cfg,
        val_dataloader=dict(batch_size=8, num_workers=0, dataset=noise, sampler=dict(type='mmdfad.NoiseSampler')),
        val_evaluator=dict(type='mmdfad.AgreementMetric'),
        val_cfg=dict(),
        train_cfg__val_interval=2,
        default_hooks__checkpoint__save_best='agreement',
        default_hooks__checkpoint__rule='greater',
    )
    assert len(names_in(tmp_path / 'run', 'best_agreement_iter_*.pth')) == 1


@pytest.mark.parametrize('save_best', ['one', ['one', 'two']])
def test_the_best_checkpoint_stays_until_a_better_one_is_complete(bare_cfg, tmp_path, save_best, monkeypatch):
    runner = run(bare_cfg, default_hooks__checkpoint=dict(save_best=save_best, rule='greater'))
    saver, names = hook_of(runner, 'DistillCheckpointHook'), [f'best_{n}_iter_6.pth' for n in ('one', 'two')]
    names = names[: 1 if save_best == 'one' else 2]
    saver._save_best_checkpoint(runner, dict(one=0.5, two=0.5))
    assert names_in(tmp_path / 'run', 'best_*') == names
    saver._save_best_checkpoint(runner, dict(one=0.4, two=0.4))
    runner.train_loop._iter = 7
    with monkeypatch.context() as patch:
        FillDisk(0, patch).before_train_iter(runner, 0)
        with pytest.raises(DistillError, match=r'cannot write a better checkpoint to .*No space left'):
            saver._save_best_checkpoint(runner, dict(one=0.6, two=0.4))
    assert names_in(tmp_path / 'run', 'best_*') == names


@pytest.mark.parametrize('save_best', ['one', ['one', 'two']])
def test_an_old_best_checkpoint_is_removed_from_this_run_only(bare_cfg, tmp_path, save_best):
    runner = run(bare_cfg, default_hooks__checkpoint=dict(save_best=save_best, rule='greater'))
    saver = hook_of(runner, 'DistillCheckpointHook')
    saver._save_best_checkpoint(runner, dict(one=0.5, two=0.5))
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (tmp_path / 'run/best_one_iter_6.pth').rename(elsewhere / 'best_one_iter_6.pth')
    paths = vars(saver) if save_best == 'one' else saver.best_ckpt_path_dict
    paths['best_ckpt_path' if save_best == 'one' else 'one'] = str(elsewhere / 'best_one_iter_6.pth')
    saver._save_best_checkpoint(runner, dict(one=0.6, two=0.4))  # a file of the same name
    assert 'best_one_iter_6.pth' in names_in(tmp_path / 'run', 'best_*')
    runner.train_loop._iter = 7
    saver._save_best_checkpoint(runner, dict(one=0.7, two=0.4))
    assert names_in(tmp_path / 'run', 'best_one*') == ['best_one_iter_7.pth']
    assert names_in(elsewhere, '*') == ['best_one_iter_6.pth']


def test_a_start_that_replaces_loaded_weights_is_told(bare_cfg, tmp_path):
    run(bare_cfg, train_cfg__max_iters=2)
    bare_cfg.model.start = dict(type='mmdfad.ChannelSelection')
    run(bare_cfg, load_from=str(tmp_path / 'run/iter_2.pth'), work_dir=str(tmp_path / 'next'))
    log = next((tmp_path / 'next').glob('*/*.log')).read_text()
    assert 'model.start replaces the weights of load_from; set model.start=None to keep them' in log


def test_save_unless_saved(bare_cfg, tmp_path):
    class Ask(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            saver = hook_of(runner, 'DistillCheckpointHook')
            files = (tmp_path / 'run').glob('iter_*.pth')
            before = {path.name: path.stat().st_mtime_ns for path in files}
            saver.save_unless_saved(runner, runner.iter + 1)
            files = (tmp_path / 'run').glob('iter_*.pth')
            written.append([path.name for path in files if before.get(path.name) != path.stat().st_mtime_ns])

    written = []
    runner = build_runner(bare_cfg, train_cfg__max_iters=3)
    runner.register_hook(Ask())
    runner.train()
    assert written == [['iter_1.pth'], [], []]  # the hook saves rounds 2 and 3 by itself


# What resumes.


def test_resume_refuses_another_teacher(bare_cfg, tmp_path):
    run(bare_cfg, train_cfg__max_iters=2)
    other = save_teacher(tmp_path / 'other.pth', seed=1)
    with pytest.raises(DistillError, match=r'(?s)resume from has another teacher:.*tiny.pth \(sha256.*other.pth'):
        run(bare_cfg, resume=True, model__teacher__checkpoint=str(other))
    # The same weights elsewhere are the same teacher.
    copied = save_teacher(tmp_path / 'copied.pth', seed=0)
    run(bare_cfg, resume=True, model__teacher__checkpoint=str(copied), train_cfg__max_iters=3)


def test_resume_refuses_another_student(bare_cfg):
    run(bare_cfg, train_cfg__max_iters=2)
    with pytest.raises(DistillError, match=r'(?s)does not fit the student and generator.*conv1.weight \(model \[2, '):
        run(
            bare_cfg,
            resume=True,
            model__student__backbone=dict(base_channels=2, stem_channels=2),
            model__student__head=dict(in_channels=16),
        )


def test_plain_student_is_not_a_training_checkpoint(tiny_cfg, tmp_path):
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration', 'export_student')
    run(tiny_cfg, train_cfg__max_iters=2)
    student = tmp_path / 'run/student.pth'
    with pytest.raises(DistillError, match=r'(?s)does not fit.*set model.student.checkpoint instead of load_from'):
        run(tiny_cfg, load_from=str(student))
    # A student can start from it.
    runner = build_runner(tiny_cfg, model__student__checkpoint=str(student))
    assert_same_state(runner.model.student.model.state_dict(), torch.load(student)['state_dict'])


def test_another_batch_is_explained(bare_cfg, tmp_path):
    run(bare_cfg, train_cfg__max_iters=2)
    run(bare_cfg, resume=True, train_cfg__max_iters=3, train_dataloader__batch_size=6)
    log = ''.join(path.read_text() for path in (tmp_path / 'run').glob('*/*.log'))
    assert 'Resuming with 1 rank(s) of batch 6 instead of 1 of batch 8' in log
    assert 'a step uses 6 images instead of 8; the noise continues at a different place in its stream' in log
    assert log.count('Resuming with') == 1


def test_other_phases_are_explained(bare_cfg, tmp_path):
    run(bare_cfg, train_cfg__max_iters=2)
    phases = [dict(name='imitation', steps=3), dict(name='generation', steps=1)]
    run(bare_cfg, resume=True, train_cfg__max_iters=3, train_cfg__phases=phases)
    log = ''.join(path.read_text() for path in (tmp_path / 'run').glob('*/*.log'))
    assert re.search(
        r'Resuming with different phases: .*3 imitation .*Before, train_cfg.phases had: .*2 imitation', log
    )
    assert log.count('Resuming with') == 1


# Settings.


def test_intervals_are_rounds():
    with pytest.raises(DistillError, match='by_epoch must be False'):
        DistillCheckpointHook(by_epoch=True)
    assert DistillCheckpointHook(by_epoch=False).by_epoch is False


def test_file_names_have_no_folders():
    with pytest.raises(DistillError, match=r"filename_tmpl must be a name without folders, but found '../x_{}.pth'"):
        DistillCheckpointHook(filename_tmpl='../x_{}.pth')


# The files themselves.


def test_atomic_write_is_all_or_nothing(tmp_path, monkeypatch):
    target = tmp_path / 'folder/file'
    atomic_write(target, b'old')
    monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError, match='No space left'):
        atomic_write(target, b'new')
    assert target.read_bytes() == b'old'
    assert os.listdir(target.parent) == ['file']
