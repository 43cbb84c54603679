"""Law 6: many ranks compute what one computes."""

import pytest
import torch
from conftest import TINY, TINY_SEG, assert_same_state, build_runner
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


@pytest.mark.parametrize('world_size', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_of_a_part_of_the_batch_compute_what_one_rank_does(tiny_cfg, tmp_path, world_size):
    tiny_cfg.custom_hooks = [dict(type='mmdfad.FreezeNorms')]
    phases = [dict(name='imitation', steps=4), dict(name='generation', steps=1)]
    tiny_cfg.train_cfg = dict(type='mmdfad.AdversarialDistillLoop', max_iters=4, phases=phases)
    tiny_cfg.optim_wrapper.student.update(accumulative_counts=2, clip_grad=dict(max_norm=1.0))
    tiny_cfg.auto_scale_lr = dict(enable=True, base_batch_size=8)  # the batch of all ranks
    # How a convolution rounds depends on the batch, and Adam takes a whole step also where a gradient is next to zero.
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
    for key in ('student.logits.model.backbone.conv1.weight', 'generator.project.weight'):
        assert not torch.equal(whole[key], initial[key])


def test_two_ranks_stay_the_same_and_resume_exactly(eventful_cfg, tmp_path):
    cfg = eventful_cfg
    cfg.work_dir = str(tmp_path / 'whole')
    whole = train(cfg, 2)
    assert_same_state(whole[0], whole[1])
    assert int(whole[0]['model']['generator.generator.memory.pushed']) == 6 * 3  # as many as one rank would keep

    cfg.work_dir = str(tmp_path / 'parts')
    cfg.train_cfg.max_iters = 4
    train(cfg, 2)
    cfg.train_cfg.max_iters, cfg.resume = 6, True
    for rank, state in enumerate(train(cfg, 2)):
        assert_same_state(state, whole[rank])

    # One rank can continue, too.
    cfg.train_cfg.max_iters = 7
    cfg.train_dataloader.batch_size = 6
    train(cfg, 1)
    log = ''.join(path.read_text() for path in (tmp_path / 'parts').glob('*/*.log'))
    assert 'Resuming with 1 rank(s) of batch 6 instead of 2 of batch 4' in log
    assert 'a step uses 6 images instead of 8; the noise continues at a different place' in log
    assert 'learning rates stay as they are in the checkpoint' in log
    assert log.count('Resuming with') == 1


def test_the_wrapper_trains_what_the_bare_distiller_does(tiny_cfg, tmp_path):
    """In a group of one process."""
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/meeting', rank=0, world_size=1)
    try:
        runner = build_runner(tiny_cfg, launcher='pytorch', train_cfg__max_iters=2)
        assert isinstance(runner.model, DistributedDistiller)
        bare = build_runner(tiny_cfg, work_dir=str(tmp_path / 'bare'), train_cfg__max_iters=2)
        names = [name for name, _ in runner.model.named_parameters()]
        assert names == [f'module.{name}' for name, _ in bare.model.named_parameters()]  # no teacher, nothing twice
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


@pytest.mark.parametrize(
    'tiny_cfg', [TINY, pytest.param(TINY_SEG, marks=pytest.mark.slow)], ids=['classifier', 'segmentor'], indirect=True
)
def test_a_teacher_split_over_two_ranks_teaches_the_same(tiny_cfg, tmp_path):
    tiny_cfg.train_cfg.max_iters = 2
    tiny_cfg.default_hooks.health.interval = 1  # the other hooks look after the last round
    # A part that is split is not folded.
    tiny_cfg.default_hooks.acceleration.fold_teacher = False
    tiny_cfg.model.generation = [dict(type='mmdfad.L1Discrepancy'), dict(type='mmdfad.BNStatisticsPrior', weight=0.1)]
    tiny_cfg.custom_imports.imports.append('test_distributed')
    states = {}
    for shard in (False, True):
        tiny_cfg.work_dir = str(tmp_path / str(shard))
        tiny_cfg.model.teacher.shard = shard
        tiny_cfg.custom_hooks = [dict(type='mmdfad.TeacherShare', whole=not shard)]
        states[shard] = train(tiny_cfg, 2)[0]['model']
    for key, value in states[False].items():
        torch.testing.assert_close(states[True][key], value, rtol=0, atol=1e-6, msg=lambda m, k=key: f'{k}: {m}')
