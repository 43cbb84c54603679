import copy
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_SEG, assert_same_state, both_tasks, build_runner, run, write_camvid
from mmengine.hooks import Hook

from mmdfad.engine import AdversarialDistillLoop  # noqa: F401
from mmdfad.registry import HOOKS
from mmdfad.utils import DistillError


@HOOKS.register_module()
class Recorder(Hook):
    """Keeps which rounds the loop plays, and for how many it has told the losses by then."""

    def before_train(self, runner):
        self.rounds = []
        self.read = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.rounds.append(batch_idx)
        losses = runner.message_hub.log_scalars.get('train/imitation_loss')
        self.read.append(0 if losses is None else len(losses.data[0]))


@HOOKS.register_module()
class BreakStudent(Hook):
    """Makes the student diverge in a round."""

    def __init__(self, round_number, value=math.nan, part='student'):
        self.round_number, self.value, self.part = round_number, value, part

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == self.round_number:
            with torch.no_grad():
                next(getattr(runner.model, self.part).parameters()).fill_(self.value)


# Law 1: nothing but noise.


@both_tasks
def test_a_run_reads_no_image(tiny_cfg, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('an image was read')

    for name in ('cv2.imread', 'cv2.imdecode', 'PIL.Image.open', 'mmcv.imread', 'mmcv.imfrombytes'):
        monkeypatch.setattr(name, refuse)
    seen = []
    original = torch.utils.data.DataLoader.__iter__
    monkeypatch.setattr(
        torch.utils.data.DataLoader, '__iter__', lambda self: seen.append(self.dataset) or original(self)
    )
    run(tiny_cfg)
    assert [type(dataset).__name__ for dataset in seen] == ['NoiseDataset']


def test_every_step_has_fresh_noise(tiny_cfg):
    """A step's batch is the slice of the noise stream that its number says."""
    runner = build_runner(tiny_cfg, train_cfg__max_iters=2, train_cfg__imitation_steps=3, train_cfg__generation_steps=2)
    steps = []
    for kind in ('imitation_step', 'generation_step'):
        step = getattr(runner.model, kind)
        setattr(
            runner.model,
            kind,
            lambda noise, optim, kind=kind, step=step: steps.append((kind, noise)) or step(noise, optim),
        )
    runner.train()
    assert [kind for kind, _ in steps] == (['imitation_step'] * 3 + ['generation_step'] * 2) * 2
    stream = runner.train_dataloader.dataset.__getitems__(range(10 * 8))
    assert torch.equal(torch.cat([noise for _, noise in steps]), stream)


def test_losses_are_read_when_they_are_logged(tiny_cfg):
    """To read one is to wait for the device."""
    runner = build_runner(tiny_cfg, train_cfg__max_iters=5, default_hooks__logger__interval=2)
    recorder = HOOKS.get('Recorder')()
    runner.register_hook(recorder)
    runner.train()
    assert recorder.read == [0, 2, 2, 4, 5]


# Law 4: the paper's algorithm.


def logits_of(model, images):
    """Class logits, without any of mmdfad's code."""
    if hasattr(model, 'head'):
        return model(images, mode='tensor')
    dense = model.decode_head(model.backbone(images))
    return F.interpolate(dense, images.shape[2:], mode='bilinear', align_corners=model.decode_head.align_corners)


def reference(teacher, student, generator, noise, rounds, steps, adversary):
    """Algorithm 1 of the paper in plain PyTorch, for the settings of `test_rounds_equal_the_papers_algorithm`."""
    # Fused, as mmdfad has them on CPUs: torch's other implementations differ by rounding.
    student_optim = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    generator_optim = torch.optim.Adam(generator.parameters(), lr=1e-3, fused=True)
    teacher.eval()
    noise = iter(noise)
    for i in range(rounds):
        for optim, lr in ((student_optim, 0.1), (generator_optim, 1e-3)):
            optim.param_groups[0]['lr'] = lr * 0.1 ** (i // 8)  # x0.1 every 8 rounds
        student.train()
        generator.train()
        for _ in range(steps):
            student_optim.zero_grad()
            fake = generator(next(noise)).detach()
            t_logit = logits_of(teacher, fake).detach()
            s_logit = logits_of(student, fake)
            (s_logit - t_logit).abs().mean().backward()
            student_optim.step()
        generator_optim.zero_grad()
        fake = generator(next(noise))
        t_logit = logits_of(teacher, fake)
        s_logit = logits_of(student, fake)
        loss = (s_logit - t_logit).abs().mean()
        (-torch.log(loss + 1) if adversary == 'LogL1Discrepancy' else -loss).backward()
        generator_optim.step()


@both_tasks
@pytest.mark.parametrize('adversary', ['L1Discrepancy', 'LogL1Discrepancy'])
def test_rounds_equal_the_papers_algorithm(tiny_cfg, adversary):
    rounds, steps, batch = 20, 5, tiny_cfg.train_dataloader.batch_size
    schedule = [dict(type='MultiStepLR', by_epoch=False, milestones=[8, 16], gamma=0.1)]
    runner = build_runner(
        tiny_cfg,
        model__generation_loss=dict(type=adversary),
        model__fold_teacher=False,  # the rounding of which lr 0.1 makes into other weights
        # as in the paper, one pixel space for all
        model__student__data_preprocessor=tiny_cfg.model.teacher.data_preprocessor,
        train_cfg=dict(max_iters=rounds, imitation_steps=steps),
        param_scheduler=dict(student=schedule, generator=schedule),
        optim_wrapper__student__optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
    )
    distiller = runner.model
    players = copy.deepcopy((distiller.teacher_player.model, distiller.student_player.model, distiller.generator))
    norm = torch.nn.modules.batchnorm._BatchNorm
    assert all(any(isinstance(m, norm) for m in player.modules()) for player in players)  # in all three
    if hasattr(players[1], 'auxiliary_head'):
        assert players[1].auxiliary_head is None
    runner.train()

    noise = runner.train_dataloader.dataset.__getitems__(range(rounds * (steps + 1) * batch)).split(batch)
    reference(*players, noise, rounds, steps, adversary)
    for name, ours, theirs in (
        ('student', distiller.student_player.model, players[1]),
        ('generator', distiller.generator, players[2]),
    ):
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(
                ours.state_dict()[key], value, rtol=0, atol=1e-6, msg=lambda m, k=f'{name}.{key}': f'{k}: {m}'
            )


# Law 5: resuming. Kills are in test_tools/test_kill.py.


@both_tasks
@pytest.mark.parametrize('extras', ['plain', 'ema_dropout_workers_amp'])
def test_resumed_run_is_bitwise_the_same(tiny_cfg, tmp_path, extras):
    if extras != 'plain':
        student = tiny_cfg.model.student
        if 'decode_head' in student:
            student.decode_head.dropout_ratio = 0.5
        else:
            student.head.update(type='StackedLinearClsHead', mid_channels=[16], dropout_rate=0.5)
        tiny_cfg.custom_hooks += [dict(type='EMAHook', momentum=0.1, update_buffers=True)]
        tiny_cfg.train_dataloader.num_workers = 2
        tiny_cfg.optim_wrapper.amp_dtype = 'bfloat16'
        tiny_cfg.model.update(
            replay=dict(type='ReplayPool', capacity=6, batch_size=3, push=2),
            augment=dict(type='RandomFlipCrop', shift=2),
            generation_priors=[dict(type='BNStatisticsPrior', weight=0.1), dict(type='OneHotPrior', weight=0.5)],
        )
    whole = run(tiny_cfg, work_dir=str(tmp_path / 'whole'))
    # `start`, `end` of schedulers are fixed by the config, so a short run is the beginning of a long one
    run(tiny_cfg, work_dir=str(tmp_path / 'parts'), train_cfg__max_iters=4)
    resumed = build_runner(tiny_cfg, work_dir=str(tmp_path / 'parts'), resume=True)
    recorder = HOOKS.get('Recorder')()
    resumed.register_hook(recorder)
    resumed.train()
    assert recorder.rounds == [4, 5]
    assert_same_state(resumed.model.state_dict(), whole.model.state_dict())
    exported = [torch.load(tmp_path / name / 'student.pth')['state_dict'] for name in ('parts', 'whole')]
    assert_same_state(*exported)
    for player in ('student', 'generator'):
        ours, theirs = (r.optim_wrapper[player].optimizer.state_dict() for r in (resumed, whole))
        assert ours['param_groups'] == theirs['param_groups']
        assert_same_state(ours['state'], theirs['state'])


def test_a_run_without_seed_resumes_its_own(tiny_cfg, tmp_path):
    tiny_cfg.randomness = dict(seed=None)
    first = run(tiny_cfg, train_cfg__max_iters=4)
    resumed = build_runner(tiny_cfg, resume=True)
    resumed.train()
    assert resumed.seed == first.seed
    assert resumed.train_dataloader.dataset.seed == first.seed


def test_validation_and_pictures_do_not_change_the_student(tiny_cfg, tmp_path):
    noise = dict(type='mmdfad.NoiseDataset', noise_dim=16, seed=1, length=20)
    validating = dict(
        val_dataloader=dict(batch_size=8, num_workers=0, dataset=noise, sampler=dict(type='mmdfad.NoiseSampler')),
        val_evaluator=dict(type='mmdfad.AgreementMetric'),
        val_cfg=dict(),
        train_cfg__val_interval=1,
    )
    a = run(tiny_cfg, work_dir=str(tmp_path / 'a'), **validating)
    b = run(tiny_cfg, work_dir=str(tmp_path / 'b'), custom_hooks=[])
    assert 0 <= a.message_hub.get_scalar('val/agreement').current() <= 1
    assert_same_state(a.model.state_dict(), b.model.state_dict())


def test_seeds_differ(tiny_cfg, tmp_path):
    a, b = (
        run(tiny_cfg, randomness__seed=seed, work_dir=str(tmp_path / str(seed)), train_cfg__max_iters=1)
        for seed in (0, 1)
    )
    assert not torch.equal(a.model.generator.project.weight, b.model.generator.project.weight)
    assert a.train_dataloader.dataset.seed == 0
    assert b.train_dataloader.dataset.seed == 1


# What a person sees.


def test_log_has_rounds_losses_rates_and_agreement(tiny_cfg, tmp_path):
    runner = run(tiny_cfg, train_cfg__max_iters=2)
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    line = next(line for line in log.splitlines() if 'Round(train)' in line)
    for part in ('[1/2]', 'student.lr:', 'generator.lr:', 'eta:', 'imitation_loss:', 'generation_loss:', 'agreement:'):
        assert part in line
    assert 'Compressed at 16x16 pixels' in log
    assert list((tmp_path / 'run').glob('*/vis_data/events.out.tfevents*'))
    assert runner.message_hub.get_scalar('train/agreement').current() <= 1


# Bad input.


def test_non_finite_loss_names_round_and_player(tiny_cfg):
    runner = build_runner(tiny_cfg)
    runner.register_hook(BreakStudent(3))
    with pytest.raises(DistillError, match=r'imitation_loss is nan in round 4: the student has diverged.*is good'):
        runner.train()
    # the checkpoint of round 2 is still there, and good
    build_runner(tiny_cfg, resume=True, train_cfg__max_iters=3).train()


def test_non_finite_generator_is_named(tiny_cfg):
    runner = build_runner(tiny_cfg, train_cfg__generation_steps=1)
    step = runner.model.generation_step
    runner.model.generation_step = lambda *args: {k: v * math.inf for k, v in step(*args).items()}
    with pytest.raises(DistillError, match=r'generation_loss is -inf in round 1: the generator has diverged'):
        runner.train()


def test_noise_dim_mismatch(tiny_cfg):
    with pytest.raises(DistillError, match=r'\[N, 16\] \(model.generator.noise_dim\).*\[8, 12\]'):
        run(tiny_cfg, train_dataloader__dataset__noise_dim=12)


@pytest.mark.parametrize(('key', 'value'), [('max_iters', 0), ('imitation_steps', 0), ('generation_steps', -1)])
def test_bad_counts(tiny_cfg, key, value):
    with pytest.raises(DistillError, match=rf'train_cfg.{key} must be a whole number from . on, but found {value}'):
        run(tiny_cfg, **{f'train_cfg__{key}': value})


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_batch_of_one_with_pooled_batch_norm(tiny_cfg):
    with pytest.raises(
        DistillError, match=r'cannot train on a batch of 1: set train_dataloader.batch_size to 2 or more'
    ):
        run(tiny_cfg, train_dataloader__batch_size=1)


# Baselines: images that no generator makes.


def test_random_images_need_no_generator(tiny_cfg):
    runner = run(
        tiny_cfg,
        model__generator=dict(_delete_=True, type='RandomImageGenerator', image_size=16),
        train_dataloader__dataset__noise_dim=3 * 16 * 16,
        train_cfg__generation_steps=0,
    )
    assert [player for player, _ in runner.optim_wrapper.items()] == ['student']
    assert runner.message_hub.get_scalar('train/imitation_loss').current() > 0


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_real_images_in_place_of_the_generator(tiny_cfg, tmp_path):
    """The student sees what the teacher's preprocessor makes of the images, and resumes in their order."""
    write_camvid(tmp_path / 'camvid')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), dict(type='PackSegInputs')]
    images = dict(type='mmdfad.CamVidDataset', ann_file='train.txt', pipeline=pipeline)
    tiny_cfg.model.generator = dict(type='RandomImageGenerator', image_size=32)
    tiny_cfg.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        dataset=dict(images, data_root=str(tmp_path / 'camvid')),
        sampler=dict(type='InfiniteSampler', shuffle=True),
    )
    tiny_cfg.train_cfg.generation_steps = 0
    whole = build_runner(tiny_cfg, work_dir=str(tmp_path / 'whole'))
    seen = []
    whole.model.folded_teacher.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    whole.train()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([120.0, 110.0, 100.0], [60.0, 55.0, 50.0]))
    images = sorted(float(x.mean()) for x in seen[0] * std + mean)
    assert images == pytest.approx([ord('a'), ord('b')], abs=1e-3)
    run(tiny_cfg, work_dir=str(tmp_path / 'parts'), train_cfg__max_iters=4)
    resumed = run(tiny_cfg, work_dir=str(tmp_path / 'parts'), resume=True)
    assert_same_state(resumed.model.state_dict(), whole.model.state_dict())


def test_samplers_must_be_able_to_skip(tiny_cfg):
    with pytest.raises(DistillError, match=r'train_dataloader.sampler must be able to skip.*DefaultSampler'):
        run(
            tiny_cfg,
            train_dataloader__sampler=dict(_delete_=True, type='DefaultSampler', shuffle=False),
            train_dataloader__dataset__length=100,
        )
