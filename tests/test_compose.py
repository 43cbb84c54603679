"""Law 9: options compose. Laws 2, 3, 5 and 7 hold for each pair of options."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import combinations

import pytest
import torch
from conftest import (
    ROOT,
    TINY,
    TINY_SEG,
    assert_same_run,
    assert_same_state,
    build_model,
    build_runner,
    hook_of,
    keep_hooks,
    run,
)
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from pairwise import all_pairs, pairs_in, pairwise

from mmdfad.models.distiller import PHASES
from mmdfad.models.logits import as_logits

ROUNDS = 4
UPSAMPLE = dict(type='UpsampleGenerator', noise_dim=8, width=8)
LEAVES = dict(type='DeadLeaves', noise_dim=8, shapes=40)
DECODER = dict(type='DecoderGenerator', noise_dim=8, width=2)
STROKES = dict(type='Strokes', noise_dim=8)
BANK = dict(type='ImageBank', noise_dim=8, count=7, init=LEAVES, shift=2, candidates=3)
REPLAY = dict(type='ReplayGenerator', capacity=6, replayed=3, push=2)
AUGMENTED = dict(type='AugmentedGenerator', shift=2)
L1 = dict(type='L1Discrepancy')
BN_KL = dict(type='BNStatisticsPrior', distance='kl')
BN_L2 = dict(type='BNStatisticsPrior', distance='l2', weight=0.1)
OFF = dict(fold_teacher=False, channels_last=False, optimize_dilated_convs=False)
IMITATION, GENERATION = dict(name='imitation', steps=2), dict(name='generation', steps=1)

# Each factor with its levels, and what the config holds for each of them.
FACTORS = dict(
    task=dict(classifier=TINY, segmentor=TINY_SEG),
    generator=dict(
        upsample=UPSAMPLE,
        dcgan=dict(type='DCGANGenerator', noise_dim=8, width=2),
        random=dict(type='RandomImageGenerator'),
        meta=dict(type='MetaGenerator', generator=UPSAMPLE, capacity=6, steps=2, shift=1),
        pictures=dict(type='Pictures', noise_dim=8, folder=str(ROOT / 'docs/images')),
        pool=dict(type='InversionPool', generator=DECODER, capacity=6, steps=2, shift=1),
        mixture=dict(type='MixtureGenerator', generators=[BANK, STROKES]),
    ),
    wrappers=dict(
        none=[], replay=[REPLAY], augmented=[AUGMENTED], ema=[dict(type='EMAGenerator')], both=[REPLAY, AUGMENTED]
    ),
    imitation=dict(
        l1=[L1],
        kl=[dict(type='KLDiscrepancy', temperature=4)],
        kl_attention=[dict(type='KLDiscrepancy'), dict(type='AttentionTransfer', weight=10)],
        stages=[dict(type='KLDiscrepancy'), dict(type='StageImitation', forcing=dict(until=0.3, fade=0.4))],
        l1_twice=[L1, dict(L1, weight=0.5, begin=2)],
    ),
    generation=dict(
        l1=[L1],
        log_l1=[dict(type='LogL1Discrepancy')],
        kl_bn=[dict(type='KLDiscrepancy', only_agreed=True), BN_KL],
        variation=[dict(type='TotalVariationPrior'), dict(type='SpectrumPrior')],
        dafl=[dict(type='OneHotPrior'), dict(type='BalancePrior', weight=5), dict(type='ActivationPrior', weight=0.1)],
        drawn_bn=[dict(type='DrawnLabelPrior'), BN_L2],
        bn_twice=[BN_KL, BN_L2],
    ),
    start=dict(
        none=None,
        selection=dict(type='ChannelSelection'),
        least_squares=dict(type='LeastSquaresStart', images=6, batch_size=4),
        later=dict(type='LeastSquaresStart', images=6, batch_size=4, residual='sum', begin=1),
    ),
    acceleration=dict(
        off=OFF,
        default=dict(),
        fold=dict(OFF, fold_teacher=True),
        layout_dilations=dict(fold_teacher=False),
        checkpointing=dict(
            activation_checkpointing=dict(teacher=['backbone.layer1', 'backbone.layer3'], student=['backbone.layer2'])
        ),
        inference_bf16=dict(inference_dtype='bfloat16'),
        compiled=dict(compile=dict(teacher=dict(backend='eager'), generator=dict(backend='eager'))),
    ),
    amp=dict(float32='float32', bfloat16='bfloat16'),
    ema=dict(off=[], on=[dict(type='EMAHook', momentum=0.1, update_buffers=True)]),
    accumulation=dict(one=1, three=3),
    noise=dict(step='step', round='round'),
    phases=dict(
        imitation_first=[IMITATION, GENERATION],
        generation_first=[GENERATION, IMITATION],
        generation_later=[IMITATION, dict(GENERATION, begin=1)],
    ),
    bn_eval=dict(off=False, on=True),
    batch=dict(even=4, odd=5),
    student_size=dict(same=None, smaller=12),
    drops=dict(off=0.0, on=0.5),
    student_optim=dict(
        sgd=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4), adam=dict(type='AdamW', lr=1e-3, fused=False)
    ),
    clip=dict(off=None, on=dict(max_norm=1.0)),
    watching=dict(off=(), on=('health', 'synthetic_images', 'report', 'preemption')),
)
# Generators that learn nothing.
FIXED = ('random', 'pictures')
# An average of a mixture is refused.
EXCLUDED = {frozenset((('generator', 'mixture'), ('wrappers', 'ema')))}
ROWS = pairwise(FACTORS, EXCLUDED)
# What an acceleration is when it is on. None of them changes results beyond rounding.
ACCELERATIONS = dict(
    fold_teacher=True,
    channels_last=True,
    optimize_dilated_convs=True,
    activation_checkpointing=dict(teacher=['backbone.layer1'], student=['backbone.layer3']),
)
COMPILE = {role: dict(backend='eager') for role in ('teacher', 'student', 'generator')}


def config_of(row: dict[str, str], teachers: dict, work_dir: str) -> Config:
    """The config of a row."""
    chosen = {factor: FACTORS[factor][level] for factor, level in row.items()}
    cfg = Config.fromfile(chosen['task'])
    keep_hooks(cfg, 'checkpoint', 'acceleration', 'export_student', *chosen['watching'])
    for name in {'health', 'synthetic_images'} & {*chosen['watching']}:
        cfg.default_hooks[name].update(interval=1, num_images=4)
    cfg.work_dir = work_dir
    cfg.custom_hooks = chosen['ema']
    cfg.default_hooks.acceleration.update(chosen['acceleration'])
    cfg.model.teacher.checkpoint = teachers[chosen['task']]
    cfg.model.student.image_size = chosen['student_size']
    if row['task'] == 'classifier':
        cfg.model.student.backbone.drop_path_rate = chosen['drops']
    else:
        cfg.model.student.decode_head.dropout_ratio = chosen['drops']
    cfg.model.generator = generator_of(chosen['generator'], chosen['wrappers'])
    cfg.model.update({key: chosen[key] for key in ('imitation', 'generation', 'start')})
    cfg.train_dataloader.batch_size = chosen['batch']
    cfg.optim_wrapper.amp_dtype = chosen['amp']
    for part in PHASES.values():
        cfg.optim_wrapper[part].update(accumulative_counts=chosen['accumulation'], clip_grad=chosen['clip'])
    cfg.optim_wrapper.student.optimizer = chosen['student_optim']
    phases = [
        dict(phase, student_bn_eval=chosen['bn_eval']) if phase['name'] == 'generation' else phase
        for phase in chosen['phases']
    ]
    cfg.train_cfg.update(max_iters=ROUNDS, phases=phases, noise=chosen['noise'])
    return cfg


def generator_of(cfg: dict, wrappers: list[dict]) -> dict:
    """A generator of 16x16 images with its wrappers around it, the last one outermost."""
    if 'generators' in cfg:
        cfg = dict(cfg, generators=[generator_of(inner, []) for inner in cfg['generators']])
    elif 'generator' in cfg:
        cfg = dict(cfg, generator=generator_of(cfg['generator'], []))
    else:
        cfg = dict(cfg, image_size=16)
    for wrapper in wrappers:
        cfg = dict(wrapper, generator=cfg)
    return cfg


class WatchSteps(Hook):
    """Checks that a step leaves the network alone that it does not update (law 3), and counts the steps."""

    def before_train(self, runner: Runner) -> None:
        self.steps = dict.fromkeys(PHASES, 0)
        self.first = {part: values_of(getattr(runner.model, part)) for part in PHASES.values()}
        for phase in PHASES:
            step = getattr(runner.model, f'{phase}_step')
            setattr(runner.model, f'{phase}_step', partial(self._watched, runner.model, step, phase))

    def _watched(self, distiller, step, phase, *args, **settings):
        self.steps[phase] += 1
        with unchanged(distiller.generator if phase == 'imitation' else distiller.student, settings):
            return step(*args, **settings)


@contextmanager
def unchanged(network: torch.nn.Module, settings: dict) -> Iterator[None]:
    """Check that parameters, their gradients and flags stay as they are; statistics only in eval mode."""
    watched = dict(network.named_parameters())
    if settings.get('student_bn_eval'):
        watched |= dict(network.named_buffers())
    before = {k: (v.detach().clone(), None if v.grad is None else v.grad.clone()) for k, v in watched.items()}
    flags = {k: v.requires_grad for k, v in watched.items()}
    yield
    for name, (value, gradient) in before.items():
        assert torch.equal(watched[name], value), name
        assert (watched[name].grad is None) == (gradient is None), name
        assert gradient is None or torch.equal(watched[name].grad, gradient), name
    assert {k: v.requires_grad for k, v in watched.items()} == flags


def values_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters() if value.requires_grad}


def assert_teacher_untouched(teacher: torch.nn.Module, before: dict[str, torch.Tensor]) -> None:
    """Law 2."""
    assert_same_state(teacher.logits.state_dict(), before)
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def assert_exported(runner: Runner) -> None:
    """Law 7: the exported student gives the logits of the student in training, or of its average."""
    if any(type(hook).__name__ == 'EMAHook' for hook in runner.hooks):
        hook_of(runner, 'EMAHook')._swap_ema_parameters()
    cfg = Config.fromfile(f'{runner.work_dir}/student.py')
    exported = build_model(cfg.model, cfg.default_scope)
    exported.load_state_dict(torch.load(f'{runner.work_dir}/student.pth')['state_dict'], strict=True)
    exported, student = as_logits(exported).eval(), runner.model.student.eval()
    images = torch.randn(2, 3, *(student.image_size or (16, 16)))
    with torch.no_grad():
        assert torch.equal(exported(images), student.logits(images))


# Every fifth row is one of `make test`, all others of `make test-slow`.
@pytest.mark.parametrize(
    'row',
    [
        pytest.param(row, id=f'{i}_{"-".join(row.values())}', marks=pytest.mark.slow if i % 5 else ())
        for i, row in enumerate(ROWS)
    ],
)
def test_a_pair_of_options_keeps_the_laws(row, tmp_path, teacher_checkpoints):
    torch.compiler.reset()
    cfg = config_of(row, teacher_checkpoints, str(tmp_path / 'whole'))
    whole, watch = build_runner(cfg), WatchSteps()
    teacher = {name: value.clone() for name, value in whole.model.teacher.logits.state_dict().items()}
    whole.register_hook(watch)
    whole.train()

    generation = next(phase for phase in cfg.train_cfg.phases if phase['name'] == 'generation')
    rounds = ROUNDS - generation.get('begin', 0) if row['generator'] not in FIXED else 0
    assert watch.steps == dict(imitation=2 * ROUNDS, generation=rounds)
    for part, first in watch.first.items():
        assert first.keys() == values_of(getattr(whole.model, part)).keys()
    student, generator = (values_of(part) for part in (whole.model.student, whole.model.generator))
    assert any(not torch.equal(value, watch.first['student'][name]) for name, value in student.items())
    assert rounds == 0 or any(not torch.equal(v, watch.first['generator'][k]) for k, v in generator.items())
    assert math.isfinite(whole.message_hub.get_scalar('train/imitation_loss').current())
    assert_teacher_untouched(whole.model.teacher, teacher)

    # Law 5.
    resumed = build_runner(
        cfg, work_dir=str(tmp_path / 'resumed'), load_from=str(tmp_path / 'whole/iter_2.pth'), resume=True
    )
    resumed.train()
    assert_same_run(resumed, whole)
    assert_exported(whole)


@pytest.mark.slow
@pytest.mark.parametrize('task', FACTORS['task'])
def test_accelerations_change_nothing(task, tmp_path, teacher_checkpoints):
    """Beyond rounding, alone and together."""
    row = {factor: next(iter(levels)) for factor, levels in FACTORS.items()}
    row |= dict(task=task, wrappers='both', imitation='kl_attention', generation='kl_bn')
    cfg = config_of(row, teacher_checkpoints, str(tmp_path))
    cfg.train_cfg.max_iters = 2
    cfg.optim_wrapper.generator.optimizer.eps = 1e-4  # Adam makes whole steps of rounding where a gradient is tiny
    first = values_of(build_runner(cfg).model.student)
    plain = run(cfg).model.student
    changes = [(value - first[name]).abs().max() for name, value in values_of(plain).items()]
    assert max(changes) > 0.01
    torch.compiler.reset()
    rows = pairwise(dict.fromkeys(ACCELERATIONS, ('off', 'on')))
    chosen = [{key: ACCELERATIONS[key] for key, name in row.items() if name == 'on'} for row in rows]
    for settings in (*chosen, dict(ACCELERATIONS, compile=COMPILE)):
        accelerated = run(cfg, default_hooks__acceleration=settings).model.student.state_dict()
        for key, value in plain.state_dict().items():
            message = partial('{}, {}: {}'.format, [*settings], key)
            torch.testing.assert_close(accelerated[key], value, rtol=2e-5, atol=1e-5, msg=message)


def test_all_pairs_are_covered():
    covered = set().union(*map(pairs_in, ROWS))
    assert covered == all_pairs(FACTORS, EXCLUDED)


def test_pairs_by_hand():
    factors = dict(a='xy', b='xy', c='xyz')
    excluded = {frozenset((('a', 'x'), ('b', 'x')))}
    pairs = all_pairs(factors, excluded)
    assert len(pairs) == 2 * 2 + 2 * 3 + 2 * 3 - 1
    rows = pairwise(factors, excluded)
    assert {frozenset(pair) for row in rows for pair in combinations(row.items(), 2)} == pairs
    assert 6 <= len(rows) <= 8
    assert rows == pairwise(factors, excluded)
