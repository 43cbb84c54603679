"""Law 6: many ranks are one."""

import pytest
import torch
from conftest import TINY_SEG, assert_same_state, both_tasks, build_runner
from mmengine.hooks import Hook
from ranks import train

from mmdfad.models import DistributedDistiller
from mmdfad.registry import HOOKS


@HOOKS.register_module()
class FreezeNorms(Hook):
    """Uncouples the images of a batch: batch norm uses its running statistics."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for module in runner.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()


@HOOKS.register_module()
class TeacherShare(Hook):
    """Checks what a rank holds of the teacher."""

    def __init__(self, whole):
        self.whole = whole

    def after_train(self, runner):
        for name, parameter in runner.model.module.teacher.named_parameters():
            local = parameter if self.whole else parameter.to_local()
            rows = len(local) if self.whole else 2 * len(local)
            assert rows - len(parameter) in (0, 1, -1) or len(parameter) < 2, name
            assert not parameter.requires_grad


@pytest.mark.parametrize('world_size', [2, 4])
def test_ranks_of_a_part_of_the_batch_are_one_of_the_whole(tiny_cfg, tmp_path, world_size):
    tiny_cfg.custom_hooks = [dict(type='mmdfad.FreezeNorms')]
    tiny_cfg.train_cfg = dict(type='mmdfad.AdversarialDistillLoop', max_iters=4, imitation_steps=4)
    tiny_cfg.optim_wrapper.student.update(accumulative_counts=2, clip_grad=dict(max_norm=1.0))
    tiny_cfg.auto_scale_lr = dict(enable=True, base_batch_size=8)  # which is the batch of all ranks
    # How a convolution rounds depends on the batch, of which Adam makes whole steps where a gradient is next to zero.
    tiny_cfg.optim_wrapper.generator.optimizer.eps = 1e-4
    tiny_cfg.custom_imports.imports.append('test_distributed')
    states = {}
    for ranks in (1, world_size):
        tiny_cfg.work_dir = str(tmp_path / str(ranks))
        tiny_cfg.train_dataloader.batch_size = 8 // ranks
        states[ranks] = train(tiny_cfg, ranks)
    for other in states[world_size][1:]:
        assert_same_state(other['model'], states[world_size][0]['model'])
    whole, parts = states[1][0]['model'], states[world_size][0]['model']
    initial = build_runner(tiny_cfg).model.state_dict()
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=0, atol=1e-5, msg=lambda m, k=key: f'{k}: {m}')
    assert not torch.equal(whole['student.model.backbone.conv1.weight'], initial['student.model.backbone.conv1.weight'])
    assert not torch.equal(whole['generator.project.weight'], initial['generator.project.weight'])


def test_two_ranks_stay_alike_and_resume_exactly(eventful_cfg, tmp_path):
    cfg = eventful_cfg
    cfg.work_dir = str(tmp_path / 'whole')
    whole = train(cfg, 2)
    assert_same_state(whole[0], whole[1])
    assert int(whole[0]['model']['replay.pushed']) == 6 * 3  # as many as one rank would keep

    cfg.work_dir = str(tmp_path / 'parts')
    cfg.train_cfg.max_iters = 4
    train(cfg, 2)
    cfg.train_cfg.max_iters, cfg.resume = 6, True
    for rank, state in enumerate(train(cfg, 2)):
        assert_same_state(state, whole[rank])

    # ... and on one rank
    cfg.train_cfg.max_iters = 7
    cfg.train_dataloader.batch_size = 6
    train(cfg, 1)
    log = ''.join(path.read_text() for path in (tmp_path / 'parts').glob('*/*.log'))
    assert 'Resuming with 1 rank(s) of batch 6 what ran with 2 of batch 4' in log
    assert 'a step sees 6 images in place of 8; the noise goes on at another place' in log
    assert 'learning rates stay those of the checkpoint' in log
    assert log.count('Resuming with') == 1


def test_wrapper_trains_only_what_it_should(tiny_cfg, tmp_path):
    """In one process that is a group of one."""
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/meeting', rank=0, world_size=1)
    try:
        runner = build_runner(tiny_cfg, launcher='pytorch', train_cfg__max_iters=2)
        assert isinstance(runner.model, DistributedDistiller)
        bare = build_runner(tiny_cfg, work_dir=str(tmp_path / 'bare'), train_cfg__max_iters=2)
        names = [name for name, _ in runner.model.named_parameters()]
        assert names == [f'module.{name}' for name, _ in bare.model.named_parameters()]  # no teacher, nothing twice
        assert [*runner.model._parallel] == ['student', 'generator']
        assert not any(p.find_unused_parameters for p in runner.model._parallel.values())
        runner.train()
        bare.train()
        assert_same_state(runner.model.module.state_dict(), bare.model.state_dict())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_synchronised_norms_are_reverted_on_cpus(tiny_cfg, tmp_path):
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/meeting', rank=0, world_size=1)
    try:
        runner = build_runner(tiny_cfg, launcher='pytorch', model_wrapper_cfg__sync_bn=True)
        assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in runner.model.modules())
        assert 'sync_bn has no effect' in next((tmp_path / 'run').glob('*/*.log')).read_text()
    finally:
        torch.distributed.destroy_process_group()


@both_tasks
def test_teacher_split_over_two_ranks_teaches_the_same(tiny_cfg, tmp_path):
    tiny_cfg.train_cfg.max_iters = 2
    tiny_cfg.custom_hooks[1].interval = 1  # TrainingHealthHook; the others look after the last round
    hooks, states = tiny_cfg.custom_hooks, {}
    for shard in (False, True):
        tiny_cfg.work_dir = str(tmp_path / str(shard))
        tiny_cfg.model.update(shard_teacher=shard, fold_teacher=False)  # what is split is not folded
        tiny_cfg.custom_hooks = [*hooks, dict(type='mmdfad.TeacherShare', whole=not shard)]
        tiny_cfg.custom_imports.imports.append('test_distributed')
        states[shard] = train(tiny_cfg, 2)[0]['model']
    for key, value in states[False].items():
        torch.testing.assert_close(states[True][key], value, rtol=0, atol=1e-6, msg=lambda m, k=key: f'{k}: {m}')
