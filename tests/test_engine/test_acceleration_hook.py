"""Acceleration as a layer: what it changes, and that a run without it is the same up to rounding."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from conftest import TINY_SEG, assert_same_run, both_tasks, build_runner, hook_of, keep_hooks, run
from mmengine.config import Config
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mmdfad.engine import AccelerationHook
from mmdfad.models import AdversarialDistiller
from mmdfad.utils import DistillError
from mmdfad.utils.state_dict import weights_sha256

L1 = dict(type='mmdfad.L1Discrepancy')
BN = dict(type='mmdfad.BNStatisticsPrior')
LAST = torch.channels_last


def accelerate(cfg: Config, **changes) -> tuple[AdversarialDistiller, OptimWrapperDict]:
    """A distiller as it is when training begins, and its optimizers."""
    runner = build_runner(cfg, **changes)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    hook_of(runner, 'AccelerationHook').before_train(runner)
    return runner.model, runner.optim_wrapper


def options(**settings) -> dict:
    return {f'default_hooks__acceleration__{key}': value for key, value in settings.items()}


def noise_for(count: int = 8) -> Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(1))


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def random_teacher(cfg: Config, width: int = 16) -> Config:
    """Wider networks. channels_last is not used for the narrow ones of the other tests."""
    for role in ('teacher', 'student'):
        cfg.model[role].backbone.update(base_channels=width, stem_channels=width)
        head = 'head' if 'head' in cfg.model[role] else 'decode_head'
        cfg.model[role][head].in_channels = 8 * width
        if 'auxiliary_head' in cfg.model[role]:
            cfg.model[role].auxiliary_head.in_channels = 4 * width
    cfg.model.generator.width = 32
    cfg.model.update(allow_random_teacher=True)
    cfg.model.teacher.checkpoint = None
    return cfg


# The layer as a whole


@both_tasks
@pytest.mark.parametrize('generation', [[L1], [L1, BN]], ids=['l1', 'l1+bn'])
def test_a_run_without_the_hook_is_the_same_to_rounding(tiny_cfg, tmp_path, generation):
    random_teacher(tiny_cfg)
    tiny_cfg.model.generation = generation
    tiny_cfg.train_cfg.max_iters = 2
    # Adam takes a whole step also where a gradient is next to zero, so rounding would decide about its sign.
    tiny_cfg.optim_wrapper.generator.optimizer.eps = 1e-3
    on = run(tiny_cfg, work_dir=str(tmp_path / 'on'))
    keep_hooks(tiny_cfg)
    off = run(tiny_cfg, work_dir=str(tmp_path / 'off'))
    assert on.model.teacher.fast is not None
    assert off.model.teacher.fast is None
    states = on.model.state_dict(), off.model.state_dict()
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-3, atol=1e-4, msg=lambda m, k=key: f'{k}: {m}')
    assert weights_sha256(on.model.teacher.model) == weights_sha256(off.model.teacher.model)


def test_a_disabled_hook_is_as_good_as_none(tiny_cfg, tmp_path):
    random_teacher(tiny_cfg)
    tiny_cfg.train_cfg.max_iters = 1
    settings = dict(compile=dict(student=dict(backend='eager')), inference_dtype='bfloat16')
    disabled = run(tiny_cfg, work_dir=str(tmp_path / 'disabled'), **options(enabled=False, **settings))
    keep_hooks(tiny_cfg)
    assert_same_run(disabled, run(tiny_cfg, work_dir=str(tmp_path / 'none')))
    assert disabled.model.teacher.fast is None


def effects_on(distiller: AdversarialDistiller) -> dict[str, bool]:
    """What the hook has changed."""
    teacher, student, generator = distiller.teacher, distiller.student, distiller.generator
    form = teacher.logits if teacher.fast is None else teacher.fast.model
    layouts, dtypes = [], []
    student.model.backbone.layer1.register_forward_hook(
        lambda module, inputs, output: layouts.append(output.is_contiguous(memory_format=LAST))
    )
    generator.project.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    distiller.train()
    student(generator.sample(noise_for(2)).float())
    dilated = [m for m in student.modules() if isinstance(m, nn.Conv2d) and max(m.dilation) > 1]
    return dict(
        fold_teacher=not norms_of(form),
        channels_last=form.model.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=LAST),
        channels_last_of_student=layouts == [True],
        channels_last_of_generator=generator.decoder[1].weight.is_contiguous(memory_format=LAST),
        optimize_dilated_convs=all('_conv_forward' in vars(m) for m in dilated),
        inference_dtype=dtypes == [torch.bfloat16],
        compile=student.logits._compiled_call_impl is not None,
    )


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
@pytest.mark.parametrize(
    'off',
    [
        dict(),
        dict(fold_teacher=False),
        dict(channels_last=False),
        dict(optimize_dilated_convs=False),
        dict(inference_dtype=None),
        dict(compile=None),
        dict(fold_teacher=False, channels_last=False, optimize_dilated_convs=False, inference_dtype=None, compile=None),
    ],
    ids=lambda off: '+'.join(off) or 'none',
)
def test_each_option_can_be_turned_off(tiny_cfg, off):
    random_teacher(tiny_cfg)
    on = dict(inference_dtype='bfloat16', compile=dict(student=dict(backend='eager')))
    distiller, _ = accelerate(tiny_cfg, **options(**{**on, **off}))
    for effect, found in effects_on(distiller).items():
        assert found == (effect.partition('_of_')[0] not in off), effect


def test_defaults_compute_in_the_type_of_the_optimizers_and_compile_nothing():
    hook = AccelerationHook()
    assert hook.fold_teacher
    assert hook.channels_last
    assert hook.optimize_dilated_convs
    assert hook.inference_dtype is None
    assert not hook.compile
    assert not hook.activation_checkpointing


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(inference_dtype=8),
            r"acceleration.inference_dtype must be one of \['bfloat16', 'float16'\] or None, but",
        ),
        (dict(inference_dtype='fp8'), r"inference_dtype must be one of .* but is 'fp8'"),
        (dict(compile=dict(critic=dict())), r"acceleration.compile takes teacher, student, generator, but found 'cr"),
        (
            dict(activation_checkpointing=dict(generator=['decoder'])),
            r"default_hooks.acceleration.activation_checkpointing takes teacher, student, but found 'generator'",
        ),
    ],
)
def test_unusable_settings_are_named(settings, message):
    with pytest.raises(DistillError, match=message):
        AccelerationHook(**settings)


def test_unknown_parts_are_named(tiny_cfg):
    message = (
        r"default_hooks.acceleration.activation_checkpointing.teacher names 'layer1', but the model has no such part; "
        r'some of its parts are .*backbone.layer1'
    )
    with pytest.raises(DistillError, match=message):
        accelerate(tiny_cfg, **options(activation_checkpointing=dict(teacher=['layer1'])))


# The folded teacher


@both_tasks
def test_the_teacher_is_folded_within_tolerance(tiny_cfg):
    distiller, _ = accelerate(tiny_cfg)
    images = distiller.generator(noise_for()).detach()
    teacher = distiller.teacher
    exact, folded = teacher.logits(images), teacher.fast(images)
    assert norms_of(teacher.logits)
    assert not norms_of(teacher.fast)
    assert not any('fast' in name for name, _ in distiller.named_modules())
    assert not any('fast' in key for key in distiller.state_dict())
    assert (folded - exact).norm() / exact.norm() < 1e-5
    with torch.autocast('cpu', torch.bfloat16):
        rounded = teacher.fast(images)
    assert 1e-5 < (rounded - exact).norm() / exact.norm() < 2e-2  # as docs/performance.md states


def forms_used(distiller: AdversarialDistiller) -> list[str]:
    """Which form of the teacher computes each forward pass from here on."""
    seen = []
    for name, model in dict(exact=distiller.teacher.logits, folded=distiller.teacher.fast.model).items():
        model.register_forward_hook(lambda *_, name=name: seen.append(name))
    return seen


@pytest.mark.parametrize(
    ('imitation', 'generation', 'expected'),
    [
        ([L1], [L1], ['folded', 'folded']),
        ([L1], [L1, BN], ['folded', 'exact']),
        ([L1], [L1, dict(BN, begin=1)], ['folded', 'folded']),
        ([L1, dict(type='mmdfad.AttentionTransfer')], [L1, BN], ['folded', 'exact']),
    ],
    ids=['logits', 'bn', 'later_bn', 'stages'],
)
def test_the_folded_teacher_is_used_unless_an_objective_looks_at_what_it_lacks(
    tiny_cfg, imitation, generation, expected
):
    distiller, optim = accelerate(tiny_cfg, model__imitation=imitation, model__generation=generation)
    seen = forms_used(distiller)
    distiller.train()
    distiller.imitation_step(noise_for(), optim['student'])
    distiller.generation_step(noise_for(), optim['generator'])
    assert seen == expected


def test_validation_gets_the_exact_teacher(tiny_cfg):
    distiller, _ = accelerate(tiny_cfg, model__val_agreement=True)
    seen = forms_used(distiller)
    distiller.probe(noise_for())
    distiller.val_step(noise_for())
    distiller.eval().val_step(dict(inputs=torch.zeros(2, 3, 16, 16)))
    assert seen == ['exact'] * 3


# Types


def teacher_passes(cfg: Config, **changes) -> tuple[list[tuple[str, torch.dtype, torch.dtype]], AdversarialDistiller]:
    """For each phase: the form that runs, the type of its weights, and the type it computes in."""
    distiller, optim = accelerate(cfg, **changes)
    checksum = weights_sha256(distiller.teacher.model)
    seen = []
    forms = dict(exact=distiller.teacher.logits)
    if distiller.teacher.fast.model is not distiller.teacher.logits:
        forms.update(folded=distiller.teacher.fast.model)
    for name, model in forms.items():
        model.model.backbone.conv1.register_forward_hook(
            lambda module, inputs, output, name=name: seen.append((name, module.weight.dtype, output.dtype))
        )
    distiller.train()
    distiller.imitation_step(noise_for(), optim['student'])
    distiller.generation_step(noise_for(), optim['generator'])
    assert weights_sha256(distiller.teacher.model) == checksum
    return seen, distiller


FULL, HALF = torch.float32, torch.bfloat16
STUDENT_IN_HALF = dict(student=dict(amp_dtype='bfloat16'))
GENERATOR_IN_HALF = dict(generator=dict(amp_dtype='bfloat16'))


@pytest.mark.parametrize(
    ('optim_wrapper', 'settings', 'imitation', 'generation'),
    [
        (dict(), dict(), ('folded', FULL, FULL), ('folded', FULL, FULL)),
        # All phases compute in bf16, so the weights are kept in it.
        (dict(amp_dtype='bfloat16'), dict(), ('folded', HALF, HALF), ('folded', HALF, HALF)),
        (
            GENERATOR_IN_HALF,
            dict(inference_dtype='bfloat16'),
            ('folded', HALF, HALF),
            ('folded', HALF, HALF),
        ),
        # They do not agree, so the weights stay in fp32.
        (STUDENT_IN_HALF, dict(), ('folded', FULL, HALF), ('folded', FULL, FULL)),
        (GENERATOR_IN_HALF, dict(), ('folded', FULL, FULL), ('folded', FULL, HALF)),
        (dict(), dict(inference_dtype='bfloat16'), ('folded', FULL, HALF), ('folded', FULL, FULL)),
        # The exact teacher keeps its weights.
        (
            dict(amp_dtype='bfloat16'),
            dict(inference_dtype='bfloat16', fold_teacher=False),
            ('exact', FULL, HALF),
            ('exact', FULL, HALF),
        ),
    ],
)
def test_the_folded_teacher_keeps_bf16_weights_only_if_all_phases_compute_in_bf16(
    tiny_cfg, optim_wrapper, settings, imitation, generation
):
    seen, _ = teacher_passes(tiny_cfg, optim_wrapper=optim_wrapper, **options(**settings))
    assert seen == [imitation, generation]


def test_weights_are_cast_after_the_other_changes(tiny_cfg):
    """They are folded and in channels last, and compute what autocast computes from fp32 weights."""
    random_teacher(tiny_cfg)
    distiller, _ = accelerate(tiny_cfg, optim_wrapper=dict(amp_dtype='bfloat16'), randomness__seed=0)
    plain, _ = accelerate(tiny_cfg, randomness__seed=0)
    weight = distiller.teacher.fast.model.model.backbone.layer1[0].conv1.weight
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous(memory_format=LAST)
    assert {p.dtype for p in distiller.teacher.logits.parameters()} == {torch.float32}
    images = torch.randn(2, 3, 16, 16)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(distiller.teacher.fast(images), plain.teacher.fast(images))


def test_an_objective_gets_the_exact_teacher_also_with_bf16_weights(tiny_cfg):
    """The passes that need the exact teacher use its fp32 weights."""
    seen, _ = teacher_passes(tiny_cfg, optim_wrapper=dict(amp_dtype='bfloat16'), model__generation=[L1, BN])
    assert seen == [('folded', HALF, HALF), ('exact', FULL, HALF)]


@pytest.mark.parametrize('fold', [True, False])
def test_teacher_and_generator_may_infer_in_another_type_than_the_student_trains_in(tiny_cfg, fold):
    distiller, optim = accelerate(tiny_cfg, **options(inference_dtype='bfloat16', fold_teacher=fold))
    seen = {}
    parts = dict(
        teacher=distiller.teacher.fast.model.model.backbone.conv1,
        student=distiller.student.model.backbone.conv1,
        generator=distiller.generator.project,
    )
    for name, part in parts.items():
        part.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output.dtype}))
    distiller.train()
    distiller.imitation_step(noise_for(), optim['student'])
    assert seen == dict(teacher=torch.bfloat16, student=torch.float32, generator=torch.bfloat16)
    distiller.generation_step(noise_for(), optim['generator'])
    assert seen == dict(teacher=torch.float32, student=torch.float32, generator=torch.float32)


# Dilations


def flops_of(step: Callable) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_deeplab_does_not_multiply_padding(tiny_cfg):
    """The student only in train mode: in eval mode its logits are those of the exported student to the last bit."""
    for role in ('teacher', 'student'):
        tiny_cfg.model[role].decode_head.update(dilations=(1, 12, 24, 36), dropout_ratio=0.0)
    tiny_cfg.model.update(allow_random_teacher=True)
    tiny_cfg.model.teacher.checkpoint = None
    trimmed, plain = (
        accelerate(tiny_cfg, randomness__seed=0, **options(optimize_dilated_convs=on))[0] for on in (True, False)
    )
    images = torch.randn(2, 3, 32, 32)
    parts = dict(
        student=lambda distiller: distiller.student.logits,
        folded_teacher=lambda distiller: distiller.teacher.fast,
        exact_teacher=lambda distiller: distiller.teacher.logits,
    )
    for name, training, fewer in (
        ('student', True, True),
        ('student', False, False),
        ('folded_teacher', False, True),
        ('exact_teacher', False, False),
    ):
        ours, theirs = (parts[name](distiller).train(training) for distiller in (trimmed, plain))
        if fewer:
            torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(ours(images), theirs(images))
        assert (flops_of(partial(ours, images)) < flops_of(partial(theirs, images))) == fewer


# Channels last


def test_the_student_computes_in_channels_last_only_in_train_mode(tiny_cfg):
    """In eval mode its logits are those of the exported student to the last bit."""
    tiny_cfg.model.student.backbone.update(base_channels=16, stem_channels=16)
    tiny_cfg.model.student.head.in_channels = 128
    distiller, _ = accelerate(tiny_cfg)
    layouts = []
    distiller.student.model.backbone.layer1.register_forward_hook(
        lambda module, inputs, output: layouts.append(output.is_contiguous(memory_format=LAST))
    )
    for training in (True, False):
        distiller.train(training)
        distiller.student(torch.randn(4, 3, 16, 16))
    assert layouts == [True, False]
    assert all(p.is_contiguous() for p in distiller.student.parameters())


@pytest.mark.parametrize('channels', [1, 3])
def test_models_without_channels_last_do_not_compute_in_it(tiny_cfg, channels):
    """The backward pass of the narrow student would corrupt memory in it."""
    tiny_cfg.model.generator.update(channels=channels, width=32)
    for role in ('teacher', 'student'):
        tiny_cfg.model[role].backbone.in_channels = channels
        tiny_cfg.model[role].data_preprocessor = dict(mean=[0.0] * channels, std=[1.0] * channels)
    distiller, _ = accelerate(tiny_cfg, model__teacher__checkpoint=None, model__allow_random_teacher=True)
    assert distiller.generator.decoder[1].weight.is_contiguous(memory_format=LAST)
    images = distiller.generator(noise_for(4))
    assert images.stride() == torch.empty(images.shape).stride()
    layouts = []
    distiller.student.model.backbone.conv1.register_forward_hook(
        lambda module, inputs, output: layouts.append(output.is_contiguous())
    )
    distiller.train().student(images)
    assert layouts == [True]


# Activation checkpointing and compilation


@both_tasks
def test_runs_with_checkpointed_parts_are_bitwise_the_same(tiny_cfg, tmp_path):
    parts = dict(teacher=['backbone.layer1', 'backbone.layer2'], student=['backbone.layer1'])
    tiny_cfg.model.imitation = [L1, dict(type='mmdfad.AttentionTransfer', weight=10.0)]
    tiny_cfg.model.generation = [L1, dict(BN, begin=1)]
    states = []
    for checkpointed in (None, parts):
        runner = run(
            tiny_cfg,
            work_dir=str(tmp_path / str(len(states))),
            train_cfg__max_iters=2,
            **options(activation_checkpointing=checkpointed),
        )
        states.append(runner.model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


@pytest.mark.parametrize('role', ['teacher', 'student'])
def test_checkpointed_parts_run_twice_in_a_step_with_gradients(tiny_cfg, role):
    distiller, optim = accelerate(tiny_cfg, **options(activation_checkpointing={role: ['backbone.layer1']}))
    network = getattr(distiller, role)
    forms = [network.logits] if role == 'student' else [network.logits, network.fast.model]
    calls = []
    for form in forms:
        form.model.backbone.layer1[0].register_forward_hook(lambda *_: calls.append(1))
    distiller.train()
    distiller.generation_step(noise_for(), optim['generator'])
    assert len(calls) == 2


@pytest.mark.slow
@pytest.mark.parametrize('fold', [True, False])
def test_compiled_networks_compute_and_record_the_same(tiny_cfg, tmp_path, fold):
    """With the backend that needs no compiler. Without a fold, batch norm inputs are recorded in a compiled teacher."""
    tiny_cfg.model.generation = [L1, BN]
    tiny_cfg.model.imitation = [L1, dict(type='mmdfad.AttentionTransfer')]
    backend = dict(backend='aot_eager')
    states = []
    for compiled in (None, dict(teacher=backend, student=backend, generator=backend)):
        runner = run(
            tiny_cfg,
            work_dir=str(tmp_path / str(len(states))),
            train_cfg__max_iters=1,
            **options(compile=compiled, fold_teacher=fold),
        )
        states.append(runner.model.state_dict())
    distiller = runner.model
    teacher = distiller.teacher.fast.model if fold else distiller.teacher.logits
    for part in (distiller.student.logits, teacher, distiller.generator):
        assert part._compiled_call_impl is not None
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-3, atol=1e-4)
