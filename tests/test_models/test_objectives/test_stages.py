"""Stage imitation against numbers by hand and independent renderings; forcing; ranks and resuming."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import assert_same_run, assert_same_state, both_tasks, build_runner, run
from distillers import assert_refused, build_distiller, multi_label, noise_for
from ranks import train
from test_distributed import FreezeNorms

from mmdfad.models import StageImitation
from mmdfad.models.objectives.pairs import Stage, aligned, channel_axis, pair_stages
from mmdfad.models.objectives.projection import LeastSquaresProjection
from mmdfad.models.step import Output, Step, Tap
from mmdfad.utils import DistillError

STAGES = ['layer1', 'layer2', 'layer3', 'layer4']
IMITATION = dict(type='StageImitation')
FORCED = dict(IMITATION, forcing=dict(until=1, fade=0))
# Students of the tiny teacher of 8 to 64 channels.
EQUAL = dict(model__student__backbone__base_channels=8, model__student__head__in_channels=64)
NARROWER = dict()
WIDER = dict(model__student__backbone__base_channels=10, model__student__head__in_channels=80)


def features_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bound(cfg, imitation=IMITATION, **changes):
    """A distiller with this objective alone, and its student's optimizer."""
    distiller, optim = build_distiller(cfg, model__imitation=[imitation], **changes)
    return distiller, optim['student']


def step_at(progress, round_index=0, teacher=()):
    taps = {Tap('teacher', f'backbone.{name}', 'input'): features for name, features in teacher}
    return Step(torch.zeros(1, 3, 16, 16), None, round_index, progress, Output(torch.zeros(1), taps))


@contextmanager
def seen(distiller, progress=0.0):
    """A step in which both networks have seen images."""
    imitation, teacher, student = distiller.imitation, distiller.teacher, distiller.student
    with imitation.recording(teacher, student, 0):
        step = Step(*distiller._sample(noise_for(6)), 0, progress)
        with torch.no_grad():
            step.teacher = teacher(step.images)
        student.replace(imitation.replacements(step))
        step.student = student(step.images)
        yield step


# By hand and against renderings (law 4)


def test_by_hand(tiny_cfg):
    """One stage. Channel 0 has a variance of 1 and errors of 1 and 3; channel 1 is dead and off by 1."""
    names = dict(teacher_stages=['backbone.layer4'], student_stages=['backbone.layer4'])
    distiller, _ = bound(tiny_cfg, dict(IMITATION, **names), **EQUAL)
    teacher, student = torch.zeros(1, 64, 1, 2), torch.zeros(1, 64, 1, 2)
    teacher[0, 0] = torch.tensor([[1.0, -1.0]])
    student[0, 0] = torch.tensor([[2.0, 2.0]])
    student[0, 1] = 1
    least = 0.01 * (1 / 64)  # of the mean variance over channels
    outputs = [
        Output(None, {Tap(role, 'backbone.layer4'): x}) for role, x in (('teacher', teacher), ('student', student))
    ]
    value = distiller.imitation[0](Step(torch.zeros(1, 3, 2, 4), None, 0, 0.0, *outputs))
    assert value.item() == pytest.approx((5 + 1 / least) / 64, rel=1e-5)


def rendered_loss(teacher, student, images, pixels, forced, sums):
    """The mean over stages, with plain modules. ``sums`` hold the projections' normal equations, if there are any."""
    t, s = (m.relu(m.norm1(m.conv1(x))) for m, x in ((teacher, images), (student, pixels(images))))
    losses = []
    for i, name in enumerate(STAGES):
        t, s = getattr(teacher, name)(t).detach(), getattr(student, name)(s)
        channels = s.shape[1]
        target = t if sums is not None else t[:, :: t.shape[1] // channels]
        ours = s if sums is None else projected(s, t, sums.setdefault(i, [0.0, 0.0]))
        var = target.var((0, 2, 3), unbiased=False)
        var = torch.maximum(var, 0.01 * var.mean())
        losses.append(((ours - target) ** 2 / var[:, None, None]).mean())
        s = target if forced else s
    return sum(losses) / len(losses)


def projected(student, teacher, sums):
    x = student.detach().permute(0, 2, 3, 1).reshape(-1, student.shape[1]).numpy()
    y = teacher.permute(0, 2, 3, 1).reshape(len(x), -1).numpy()
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    sums[:] = 0.9 * sums[0] + x.T @ x / len(x), 0.9 * sums[1] + x.T @ y / len(x)
    means = sums[0][-1] / sums[0][-1, -1]
    variances = np.diag(sums[0] / sums[0][-1, -1] - np.outer(means, means))[:-1]
    penalty = 1e-3 * sums[0][-1, -1] * variances.mean() * np.eye(x.shape[1])
    penalty[-1, -1] = 0
    weights = torch.from_numpy(np.linalg.solve(sums[0] + penalty, sums[1]))
    return torch.einsum('nshw,st->nthw', student, weights[:-1]) + weights[-1].view(1, -1, 1, 1)


@pytest.mark.parametrize('forced', [False, True], ids=['free', 'forced'])
@pytest.mark.parametrize('width', [EQUAL, NARROWER, WIDER], ids=['equal', 'narrower', 'projected'])
def test_steps_equal_a_plain_rendering(tiny_cfg, width, forced):
    distiller, optim = bound(tiny_cfg, FORCED if forced else IMITATION, **width)
    distiller.double()
    teacher, student = (copy.deepcopy(n.model.backbone) for n in (distiller.teacher, distiller.student))
    for module in (*teacher.modules(), *student.modules()):
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    # The first step's batch statistics are those of a network with rates that show any error.
    plain = torch.optim.SGD(student.parameters(), lr=0.05)
    optim.optimizer = torch.optim.SGD(distiller.student.parameters(), lr=0.05)
    sums = {} if width is WIDER else None
    for seed in range(3):
        noise = noise_for(6, seed).double()
        images = distiller.generator.sample(noise)
        loss = rendered_loss(teacher, student, images, distiller.student.pixels, forced and width is not WIDER, sums)
        plain.zero_grad()
        loss.backward()
        plain.step()
        log = distiller.imitation_step(noise, optim)
        assert log['imitation_loss'].item() == pytest.approx(loss.item(), rel=1e-9)
    for name, value in student.state_dict().items():
        torch.testing.assert_close(distiller.student.model.backbone.state_dict()[name], value, rtol=1e-9, atol=1e-9)


# Forcing


@both_tasks
def test_forced_stages_learn_alone(tiny_cfg):
    """The loss of a stage has a gradient for that stage only; that of a head also for the stage before it."""
    distiller, _ = bound(tiny_cfg, FORCED)
    objective = distiller.imitation[0]
    parameters = dict(distiller.student.model.named_parameters())
    for progress, alone in ((0.0, True), (1.0, False)):
        with seen(distiller, progress) as step:
            for i, pair in enumerate(objective._pairs):
                loss = objective._distance(i, pair, step)
                gradients = torch.autograd.grad(loss, parameters.values(), retain_graph=True, allow_unused=True)
                reached = {name.split('.')[1] for name, g in zip(parameters, gradients, strict=True) if g is not None}
                reached &= set(STAGES)
                if alone:
                    assert reached == {STAGES[min(i, 3)]}
                else:
                    assert reached == set(STAGES[: i + 1])


def test_forced_inputs_are_the_teachers_kept_channels(tiny_cfg):
    distiller, _ = bound(tiny_cfg, FORCED)
    with seen(distiller) as step:
        for name in STAGES[1:]:
            teacher = step[Tap('teacher', f'backbone.{name}', 'input')]
            forced = distiller.student._recorder.replacements[Tap('student', f'backbone.{name}', 'input')]
            assert torch.equal(forced, teacher[:, ::2])


def test_a_smaller_student_is_forced_and_compared_at_its_own_size(tiny_cfg):
    distiller, optim = bound(tiny_cfg, FORCED, model__student__image_size=8)
    with seen(distiller) as step:
        shapes = {tap.module: list(x.shape) for tap, x in distiller.imitation.replacements(step).items()}
    assert shapes == {
        'backbone.layer2': [6, 4, 8, 8],
        'backbone.layer3': [6, 8, 4, 4],
        'backbone.layer4': [6, 16, 2, 2],
    }
    assert distiller.imitation_step(noise_for(6), optim)['imitation_loss'].isfinite()


def test_inputs_are_released_one_after_the_other(tiny_cfg):
    distiller, _ = bound(tiny_cfg, dict(IMITATION, forcing=dict(until=0.25, fade=0.75)))
    teacher = [(f'layer{i}', torch.zeros(1, 4 * 2**i, 1, 1)) for i in (2, 3, 4)]

    def forced(progress, round_index=1):
        replacements = distiller.imitation[0].replacements(step_at(progress, round_index, teacher))
        return sorted(int(tap.module[-1]) for tap in replacements)

    assert forced(0.0) == forced(0.24) == [2, 3, 4]
    assert forced(0.5) == [3, 4]  # from .25 to .5 the first fades out
    assert forced(0.75) == [4]
    assert forced(1.0) == []
    shares = [np.mean([2 in forced(p, i) for i in range(100)]) for p in (0.3, 0.375, 0.45)]
    assert shares == pytest.approx([0.8, 0.5, 0.2], abs=0.02)
    assert all(forced(0.375, i)[-2:] == [3, 4] for i in range(20))


def test_nothing_is_forced_by_default(tiny_cfg):
    distiller, _ = bound(tiny_cfg)
    assert distiller.imitation[0].replacements(step_at(0.0)) == {}


def test_forcing_for_a_part_of_the_run_without_fading(tiny_cfg):
    distiller, _ = bound(tiny_cfg, dict(IMITATION, forcing=dict(until=0.5, fade=0)))
    for progress, count in ((0.49, 3), (0.5, 0)):
        with seen(distiller, progress) as step:
            assert len(distiller.imitation.replacements(step)) == count


def test_inputs_behind_a_projection_are_not_forced(tiny_cfg):
    distiller, _ = bound(tiny_cfg, FORCED, **WIDER)
    assert distiller.imitation[0].replacements(step_at(0.0)) == {}


# Projections


def test_a_projection_finds_mixed_channels_whatever_their_scale_and_offset():
    teacher = features_of(4, 5, 9)
    student = torch.einsum('ts,ntp->nsp', features_of(5, 7, seed=1), teacher)
    found = LeastSquaresProjection(7, 5)(student, teacher)
    assert (found - teacher).square().mean() < 1e-3 * teacher.var()
    same = LeastSquaresProjection(7, 5)(1e-3 * (student - 2), teacher)
    torch.testing.assert_close(same, found, rtol=1e-6, atol=1e-6)


def test_features_that_say_nothing_give_the_mean():
    """And so a distance of the whole variance: a student gains nothing by being constant."""
    teacher = features_of(4, 5, 9)
    found = LeastSquaresProjection(3, 5)(torch.zeros(4, 3, 9, dtype=torch.float64), teacher)
    torch.testing.assert_close(found, teacher.mean((0, 2)).view(1, -1, 1).expand_as(teacher))


def test_a_projection_counts_in_train_mode_only():
    projection = LeastSquaresProjection(3, 5)
    projection(features_of(4, 3, 9), features_of(4, 5, 9, seed=1))
    sums = copy.deepcopy(projection.state_dict())
    assert sums['gram'].abs().sum() > 0
    projection.eval()(features_of(4, 3, 9, seed=2), features_of(4, 5, 9, seed=3))
    assert_same_state(projection.state_dict(), sums)


def test_a_random_student_learns_through_projections(tiny_cfg):
    """On images that it has not seen, too."""
    distiller, optim = bound(tiny_cfg, **WIDER)
    optim.optimizer = torch.optim.Adam(distiller.student.parameters(), lr=2e-3)

    @torch.no_grad()
    def distance():
        distiller.imitation.eval()
        with seen(distiller) as step:
            value, _ = distiller.imitation(step)
        distiller.imitation.train()
        return value.item()

    distiller.imitation_step(noise_for(16), optim)
    first = distance()
    for seed in range(15):
        distiller.imitation_step(noise_for(16, seed + 10), optim)
    assert distance() < min(0.9 * first, 0.95)


# Pairs


@pytest.mark.parametrize(
    ('shape', 'axis'),
    [((16, 25, 32), 1), ((25, 32, 16), 3), ((16, 3, 4), 1), ((3, 4, 16), 3), ((4, 4, 5), 1), ((32, 16, 16), 1)],
)
def test_channels_come_first_or_last(shape, axis):
    """Of images of 100x130 pixels, which maps of 25x32 and 3x4 do not divide."""
    assert channel_axis((2, *shape), 100, 130) == axis


def stages(role, **strides):
    return [Stage(name, Tap(role, name), torch.Size([2, 4, 8, 8]), 1, stride, True) for name, stride in strides.items()]


def names(pairs):
    return [(teacher.name, student.name) for teacher, student in pairs]


def test_stages_are_paired_by_stride():
    mobilenet = dict(a=2, b=4, c=8, d=16, e=16, f=32, g=32)
    pairs = pair_stages(stages('teacher', **mobilenet), stages('student', k=4, l=8, m=16, n=32), named=False)
    assert names(pairs) == [('b', 'k'), ('c', 'l'), ('e', 'm'), ('g', 'n')]


def test_the_last_stages_belong_together_whatever_their_strides():
    dilated = dict(k=4, l=8, m=8, n=8)
    pairs = pair_stages(stages('teacher', a=4, b=8, c=16, d=32), stages('student', **dilated), named=False)
    assert names(pairs) == [('a', 'k'), ('b', 'm'), ('d', 'n')]


def test_blocks_are_paired_at_the_same_share_of_the_depth():
    teacher = stages('teacher', **{f't{i}': 16 for i in range(12)})
    student = stages('student', **{f's{i}': 16 for i in range(6)})
    assert names(pair_stages(teacher, student, named=False)) == [
        ('t3', 's1'),
        ('t5', 's2'),
        ('t9', 's4'),
        ('t11', 's5'),
    ]
    assert [name for name, _ in names(pair_stages(teacher, teacher, named=False))] == ['t2', 't5', 't8', 't11']


def test_tokens_and_maps_are_compared_as_maps_without_class_tokens():
    maps = features_of(2, 3, 4, 6)
    tokens = torch.cat([features_of(2, 3, 1, seed=1), maps.flatten(2)], 2)
    teacher, student = aligned(tokens, maps, ((16, 24), (16, 24)))
    assert torch.equal(teacher, student)
    assert torch.equal(student, maps.flatten(2))
    teacher, student = aligned(maps, maps[:, :, ::2, ::2], ((16, 24), (8, 12)))
    assert teacher.shape == student.shape == (2, 3, 6)


def classifier(backbone, channels, neck=True, **head):
    head = dict(dict(type='LinearClsHead', num_classes=5, in_channels=channels), **head)
    neck = dict(type='GlobalAveragePooling') if neck else None
    return dict(type='mmpretrain.ImageClassifier', backbone=backbone, neck=neck, head=head)


def vit(width, layers):
    arch = dict(embed_dims=width, num_layers=layers, num_heads=2, feedforward_channels=width)
    backbone = dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=8)
    return classifier(backbone, width, neck=False, type='VisionTransformerClsHead')


def swin(width):
    arch = dict(embed_dims=width, depths=[2, 2], num_heads=[1, 2])
    backbone = dict(type='SwinTransformer', arch=arch, img_size=32, patch_size=4, window_size=4, out_indices=(1,))
    return classifier(backbone, 2 * width)


def convnext(width):
    arch = dict(depths=[1, 1, 1, 1], channels=[width, 2 * width, 4 * width, 8 * width])
    return classifier(dict(type='ConvNeXt', arch=arch), 8 * width, neck=False)


def resnet(width):
    backbone = dict(type='ResNet', depth=18, base_channels=width, stem_channels=width)
    return classifier(backbone, 8 * width)


def outside(depth):
    kwargs = dict(depth=depth, num_classes=5)
    return dict(type='mmdfad.TorchClassifier', factory='examples/cifar_resnet.py:CifarResNet', kwargs=kwargs)


def segmentor(backbone, **head):
    loss = dict(type='CrossEntropyLoss')
    head = dict(num_classes=5, norm_cfg=dict(type='BN'), loss_decode=loss, **head)
    return dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=head, test_cfg=dict(mode='whole'))


def deeplab(backbone, channels, width):
    return segmentor(
        dict(backbone, norm_cfg=dict(type='BN')),
        type='ASPPHead',
        in_channels=channels,
        in_index=3,
        channels=width,
        dilations=(1, 2),
    )


R18 = dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1))
MOBILE = dict(type='MobileNetV2', widen_factor=0.25, strides=(1, 2, 2, 1, 1, 1, 1), out_indices=(1, 2, 4, 6))


def segformer(width):
    widths = [width, 2 * width, 4 * width, 8 * width]
    heads = dict(num_heads=[1, 2, 4, 8], num_layers=[1, 1, 1, 1], mlp_ratio=1)
    backbone = dict(type='MixVisionTransformer', embed_dims=width, **heads)
    in_index = [0, 1, 2, 3]
    return segmentor(backbone, type='SegformerHead', in_channels=widths, in_index=in_index, channels=width)


def same(prefix, count, ending=''):
    return [(f'{prefix}{i}{ending}',) * 2 for i in range(count)]


HEAD = ('decode_head.conv_seg',) * 2
# Teacher, student, the pairs, and how many of them can be forced and are projected.
FAMILIES = dict(
    vit=(
        vit(16, 4),
        vit(8, 2),
        [('backbone.layers.1', 'backbone.layers.0'), ('backbone.layers.3', 'backbone.layers.1')],
        1,
        0,
    ),
    swin=(swin(16), swin(8), same('backbone.stages.', 2), 1, 0),
    convnext=(convnext(8), convnext(4), same('backbone.stages.', 4), 3, 0),
    outside=(outside(20), outside(8), [(f'model.layer{i}',) * 2 for i in (1, 2, 3)], 2, 0),
    mobilenet_resnet=(
        classifier(dict(type='MobileNetV2', widen_factor=0.25), 1280),
        resnet(4),
        [(f'backbone.layer{t}', f'backbone.layer{s}') for t, s in ((2, 1), (3, 2), (5, 3), (7, 4))],
        1,
        3,
    ),
    resnet_vit=(
        resnet(4),
        vit(8, 2),
        [('backbone.layer2', 'backbone.layers.0'), ('backbone.layer4', 'backbone.layers.1')],
        0,
        1,
    ),
    segformer=(segformer(8), segformer(4), [*same('backbone.layers.', 4), HEAD], 3, 0),
    deeplab_mobilenet=(
        deeplab(R18, 64, 16),
        deeplab(MOBILE, 80, 8),
        [(f'backbone.layer{t}', f'backbone.layer{s}') for t, s in ((1, 2), (2, 4), (3, 5), (4, 7))] + [HEAD],
        2,
        3,
    ),
)


@pytest.mark.parametrize('family', FAMILIES)
def test_families(tiny_cfg, family):
    teacher, student, expected, forced, projected = FAMILIES[family]
    norm = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0])
    if family in ('segformer', 'deeplab_mobilenet'):
        norm.update(type='SegDataPreProcessor', size=(32, 32))
    tiny_cfg.default_scope = teacher['type'].partition('.')[0]
    tiny_cfg.model.teacher, tiny_cfg.model.student = (dict(n, data_preprocessor=norm) for n in (teacher, student))
    distiller, optim = bound(
        tiny_cfg,
        dict(IMITATION, forcing=dict(until=0.5, fade=0)),
        model__generator__image_size=32,
        model__allow_random_teacher=True,
    )
    pairs = distiller.imitation[0]._pairs
    assert names((pair.teacher, pair.student) for pair in pairs) == expected
    assert [sum(getattr(pair, key) for pair in pairs) for key in ('forced', 'projected')] == [forced, projected]
    optim.optimizer = torch.optim.Adam(distiller.student.parameters(), lr=2e-3)
    with distiller.teacher.recording(()), torch.no_grad():  # statistics as of a trained teacher
        distiller.teacher.model.train()
        distiller.teacher(torch.randn(32, 3, 32, 32))
        distiller.teacher.model.eval()
    for progress in (0.0, 1.0):
        losses = [distiller.imitation_step(noise_for(8), optim, 0, progress)['imitation_loss'] for _ in range(8)]
        assert losses[-1] < losses[0]


# Settings


def test_stages_by_name(tiny_cfg):
    given = dict(teacher_stages=['backbone.layer2', 'neck'], student_stages=['backbone.layer2.0', 'neck'])
    distiller, optim = bound(tiny_cfg, dict(IMITATION, **given))
    pairs = distiller.imitation[0]._pairs
    assert [pair.student.tap for pair in pairs] == [Tap('student', 'backbone.layer2.0'), Tap('student', 'neck')]
    assert pairs[1].student.shape == (2, 32)  # not a map
    assert distiller.imitation_step(noise_for(8), optim)['imitation_loss'] > 0


@pytest.mark.parametrize(
    ('forcing', 'found'), [(0.5, '0.5'), (dict(until=0.5), "{'until': 0.5}"), (dict(until=0.6, fade=0.5), '0.6')]
)
def test_a_bad_forcing_is_explained(forcing, found):
    with pytest.raises(DistillError, match=rf'must be dict\(until=..., fade=...\), two shares .* but found .*{found}'):
        StageImitation(forcing=forcing)


def test_unpaired_stages_are_listed(tiny_cfg):
    assert_refused(
        tiny_cfg,
        r'The teacher has backbone.layer2 \(stride 2\); the student has backbone.layer1 \(stride 1\), .*layer4 '
        r'\(stride 8\). Set its teacher_stages and student_stages',
        model__imitation=[dict(IMITATION, teacher_stages=['backbone.layer2'])],
    )


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('layer9', "wants to see 'layer9', but model.teacher has no such module"),
        ('head.loss_module', r'teacher_stages of StageImitation has head.loss_module, but .* does not call'),
    ],
)
def test_unknown_stages_are_named(tiny_cfg, name, message):
    given = dict(IMITATION, teacher_stages=[name], student_stages=['backbone.layer2'])
    assert_refused(tiny_cfg, message, model__imitation=[given])


def test_multi_label_models(tiny_cfg):
    distiller, optim = bound(tiny_cfg, FORCED, **multi_label())
    assert distiller.imitation_step(noise_for(8), optim)['imitation_loss'] > 0


def test_real_images_need_no_noise(tiny_cfg):
    distiller, optim = bound(tiny_cfg, dict(IMITATION, forcing=dict(until=0, fade=1)))
    images = [torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))] * 4
    assert distiller.imitation_step(dict(inputs=images), optim, 3, 0.1)['imitation_loss'] > 0


# In the loop


def test_resuming_is_exact(tiny_cfg, tmp_path):
    """With the sums of projections."""
    cfg = tiny_cfg
    cfg.model.imitation = [IMITATION, dict(type='KLDiscrepancy')]
    cfg.model.student.backbone.base_channels, cfg.model.student.head.in_channels = 10, 80
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1, update_buffers=True)]
    cfg.optim_wrapper.amp_dtype = 'bfloat16'
    whole = run(cfg, work_dir=str(tmp_path / 'whole'), train_cfg__max_iters=4)
    resumed = build_runner(cfg, train_cfg__max_iters=4, load_from=str(tmp_path / 'whole/iter_2.pth'), resume=True)
    resumed.train()
    assert_same_run(resumed, whole)
    grams = [key for key in whole.model.state_dict() if key.startswith('imitation') and key.endswith('gram')]
    assert len(grams) == 4


def test_two_ranks_compute_what_one_does(tiny_cfg, tmp_path):
    tiny_cfg.model.imitation = [IMITATION]
    tiny_cfg.model.student.backbone.base_channels, tiny_cfg.model.student.head.in_channels = 10, 80
    tiny_cfg.model.generator = dict(type='RandomImageGenerator', image_size=16)
    tiny_cfg.custom_hooks = [dict(type=f'mmdfad.{FreezeNorms.__name__}')]
    tiny_cfg.custom_imports.imports.append('test_distributed')
    tiny_cfg.train_cfg.update(max_iters=2, phases=[dict(name='imitation', steps=1)])
    whole = run(tiny_cfg, work_dir=str(tmp_path / 'whole')).model.state_dict()
    tiny_cfg.train_dataloader.batch_size //= 2
    first, second = (state['model'] for state in train(tiny_cfg, 2))
    assert_same_state(first, second)
    assert whole['imitation.0.projections.3.cross'].abs().max() > 1
    for key, value in whole.items():
        atol = 1e-5 * max(1, value.abs().max())
        torch.testing.assert_close(first[key], value, rtol=0, atol=atol, msg=lambda m, k=key: f'{k}: {m}')
