import copy

import pytest
import torch
from conftest import TINY, TINY_SEG, assert_same_state, both_tasks, build_runner
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdfad.engine import PlayerOptimWrapperConstructor
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError


@pytest.fixture
def build(tiny_cfg):
    def build(**changes):
        tiny_cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
        with DefaultScope.overwrite_default_scope(tiny_cfg.default_scope):
            torch.manual_seed(0)
            distiller = MODELS.build(copy.deepcopy(tiny_cfg.model)).train()
            cfg = {k: v for k, v in tiny_cfg.optim_wrapper.items() if k != 'constructor'}
            return distiller, PlayerOptimWrapperConstructor(cfg)(distiller)

    return build


def snapshot(module):
    return copy.deepcopy(module.state_dict())


def grads(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def same_grads(a, b):
    return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in zip(a, b, strict=True))


# Law 2: the teacher.


@both_tasks
def test_teacher_is_unchanged_in_eval_and_in_no_state(build):
    distiller, optim = build()
    before = snapshot(distiller.teacher)
    for _ in range(2):
        distiller.train()
        distiller.imitation_step(torch.randn(8, 16), optim['student'])
        distiller.generation_step(torch.randn(8, 16), optim['generator'])
        assert not any(m.training for m in distiller.teacher.modules())
    assert_same_state(snapshot(distiller.teacher), before)
    assert all(p.grad is None and not p.requires_grad for p in distiller.teacher.parameters())

    teachers = {id(p) for p in distiller.teacher.parameters()}
    assert not any(id(p) in teachers for p in distiller.parameters())
    assert not any(id(m) in {id(t) for t in distiller.teacher.modules()} for m in distiller.modules())
    optimized = {id(p) for wrapper in optim.values() for group in wrapper.param_groups for p in group['params']}
    assert optimized == {id(p) for p in distiller.parameters()}
    assert {key.split('.')[0] for key in distiller.state_dict()} == {'student', 'generator'}


@both_tasks
def test_copies_share_the_teacher(build):
    """As mmengine's EMAHook makes one, which averages what it copies."""
    distiller, _ = build()
    copied = copy.deepcopy(distiller)
    assert copied.teacher is distiller.teacher
    assert copied.student is not distiller.student


def test_teacher_follows_to_another_type_and_device(build):
    distiller, _ = build()
    distiller.double()
    assert all(p.dtype == torch.float64 for p in distiller.teacher.parameters())
    distiller.float().to('meta')
    assert all(p.device.type == 'meta' for p in distiller.teacher.parameters())


def test_random_teacher_needs_permission(build):
    with pytest.raises(DistillError, match=r'the teacher has no weights: set model.teacher.checkpoint'):
        build(model__teacher__checkpoint=None)
    build(model__teacher__checkpoint=None, model__allow_random_teacher=True)


@both_tasks
def test_student_may_start_with_channels_of_the_teacher(build):
    distiller, _ = build(model__init_student_from_teacher=True)
    teacher, student = distiller.teacher.model, distiller.student.model
    for name in ('backbone.layer1.0.conv2', 'backbone.layer1.1.conv1'):
        assert torch.equal(student.get_submodule(name).weight, teacher.get_submodule(name).weight[::2, ::2])
    norm = 'backbone.layer1.0.bn1.running_var'
    assert torch.equal(student.state_dict()[norm], teacher.state_dict()[norm][::2])


def test_only_a_narrower_student_can_start_with_channels_of_the_teacher(build):
    with pytest.raises(DistillError, match=r'needs a student that is a narrower .* such as head.fc.weight'):
        build(model__init_student_from_teacher=True, model__student__head__in_channels=512)


def test_a_student_starts_with_one_thing_only(build, teacher_checkpoint):
    as_wide = {f'model__student__{key}': 8 for key in ('backbone__base_channels', 'backbone__stem_channels')}
    with pytest.raises(DistillError, match=r'give either model.student.checkpoint or model.init_student_from_teacher'):
        build(
            **as_wide,
            model__student__head__in_channels=64,
            model__student__checkpoint=teacher_checkpoint,
            model__init_student_from_teacher=True,
        )


# Law 3: the steps.


@both_tasks
def test_imitation_step_moves_the_student_only(build):
    distiller, optim = build()
    distiller.generation_step(torch.randn(8, 16), optim['generator'])
    for p in distiller.generator.parameters():
        p.grad = torch.ones_like(p)
    generator = {k: v.clone() for k, v in distiller.generator.named_parameters()}
    left = grads(distiller.generator)
    student = snapshot(distiller.student)
    log = distiller.imitation_step(torch.randn(8, 16), optim['student'])
    assert log['imitation_loss'] > 0
    assert 0 <= log['agreement'] <= 1
    assert all(torch.equal(p, generator[k]) for k, p in distiller.generator.named_parameters())
    assert same_grads(grads(distiller.generator), left)
    assert not all(torch.equal(p, student[k]) for k, p in distiller.student.named_parameters())


@both_tasks
def test_generation_step_moves_the_generator_only(build):
    distiller, optim = build()
    for p in distiller.student.parameters():
        p.grad = torch.ones_like(p)
    student = {k: v.clone() for k, v in distiller.student.named_parameters()}
    left = grads(distiller.student)
    generator = snapshot(distiller.generator)
    log = distiller.generation_step(torch.randn(8, 16), optim['generator'])
    assert log['generation_loss'] < 0
    assert all(torch.equal(p, student[k]) for k, p in distiller.student.named_parameters())
    assert same_grads(grads(distiller.student), left)
    assert not torch.equal(distiller.generator.state_dict()['project.weight'], generator['project.weight'])


def test_teacher_and_generator_may_infer_in_another_type_than_the_student_trains_in(build):
    distiller, optim = build(model__inference_dtype='bfloat16')
    seen = {}
    for name, part in dict(teacher=distiller.folded_teacher, student=distiller.student).items():
        part.model.backbone.conv1.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.dtype})
        )
    distiller.imitation_step(torch.randn(8, 16), optim['student'])
    assert seen == dict(teacher=torch.bfloat16, student=torch.float32)
    distiller.generation_step(torch.randn(8, 16), optim['generator'])
    assert seen == dict(teacher=torch.float32, student=torch.float32)


def test_unusable_options_are_refused(build):
    with pytest.raises(DistillError, match=r"model.inference_dtype must be 'bfloat16', 'float16' or None, but found 8"):
        build(model__inference_dtype=8)


def test_priors_must_be_dicts(build):
    with pytest.raises(DistillError, match=r"model.generation_priors must be a list of dicts, but holds 'OneHotPrior'"):
        build(model__generation_priors=['OneHotPrior'])


def test_flags_are_restored_and_frozen_student_layers_stay_so(build):
    distiller, optim = build()
    distiller.student.model.backbone.conv1.requires_grad_(False)
    flags = [p.requires_grad for p in distiller.parameters()]
    distiller.imitation_step(torch.randn(8, 16), optim['student'])
    distiller.generation_step(torch.randn(8, 16), optim['generator'])
    assert [p.requires_grad for p in distiller.parameters()] == flags


@both_tasks
def test_left_over_gradients_do_not_count(build):
    """The same update, whatever someone left in .grad before."""
    results = []
    for dirt in (0.0, 100.0):
        distiller, optim = build()
        for p in distiller.parameters():
            p.grad = torch.full_like(p, dirt)
        torch.manual_seed(1)
        distiller.imitation_step(torch.randn(8, 16), optim['student'])
        distiller.generation_step(torch.randn(8, 16), optim['generator'])
        results.append(snapshot(distiller))
    assert_same_state(*results)


def test_accumulated_gradients_are_those_of_the_large_batch(build):
    noise = torch.randn(8, 16)
    results = []
    for batches in ([noise], noise.split(4)):
        distiller, _ = build()
        distiller.eval()  # batch norm would tell the batches apart
        cfg = dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=len(batches))
        optim = PlayerOptimWrapperConstructor(dict(student=cfg, generator=cfg))(distiller)
        for batch in batches:
            distiller.imitation_step(batch, optim['student'])
        for batch in batches:
            distiller.generation_step(batch, optim['generator'])
        results.append(snapshot(distiller))
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=1e-4, atol=1e-6)


def test_probe_leaves_no_trace(build):
    distiller, _ = build()
    before, modes = snapshot(distiller), [m.training for m in distiller.modules()]
    images, student_labels, teacher_labels = distiller.probe(torch.randn(8, 16))
    assert images.shape == (8, 3, 16, 16)
    assert student_labels.shape == teacher_labels.shape == (8,)
    assert_same_state(snapshot(distiller), before)
    assert [m.training for m in distiller.modules()] == modes


def test_student_sees_its_own_pixels(build):
    """The tiny teacher and student differ in mean, std and channel order."""
    distiller, _ = build()
    images = torch.randn(2, 3, 16, 16)
    teacher, student = (p.model.data_preprocessor for p in (distiller.teacher_player, distiller.student_player))
    loaded = (images * teacher.std + teacher.mean).flip(1)
    torch.testing.assert_close(distiller.to_student_pixels(images), (loaded - student.mean) / student.std)


def test_priors_are_added_with_their_weights(build):
    noise = torch.randn(8, 16)
    plain, optim = build()
    base = plain.generation_step(noise, optim['generator'])['generation_loss']
    priors = [dict(type='BNStatisticsPrior', weight=2.0), dict(type='BalancePrior', weight=0.5)]
    distiller, optim = build(model__generation_priors=priors)
    log = distiller.generation_step(noise, optim['generator'])
    expected = base + 2 * log['bn_statistics'] + 0.5 * log['balance']
    torch.testing.assert_close(log['generation_loss'], expected)
    assert log['bn_statistics'] > 0
    # they are the generator's business alone
    assert 'bn_statistics' not in distiller.imitation_step(noise, optim['student'])


def test_replayed_images_are_those_of_generation_steps(build):
    distiller, optim = build(model__replay=dict(type='ReplayPool', capacity=4, batch_size=4, push=4))
    assert 'replay_loss' not in distiller.imitation_step(torch.randn(8, 16), optim['student'])
    made = []
    handle = distiller.generator.register_forward_hook(lambda module, inputs, output: made.append(output.detach()))
    distiller.generation_step(torch.randn(8, 16), optim['generator'])
    handle.remove()
    assert torch.equal(distiller.replay.images, made[0][:4])
    assert distiller.imitation_step(torch.randn(8, 16), optim['student'])['replay_loss'] > 0
    assert not distiller.replay.images.requires_grad


@pytest.mark.parametrize('freeze', [False, True])
def test_student_norms_in_generation_steps(build, freeze):
    distiller, optim = build(model__freeze_student_norms=freeze)
    key = 'model.backbone.bn1.running_mean'
    before = snapshot(distiller.student)
    distiller.generation_step(torch.randn(8, 16), optim['generator'])
    assert torch.equal(before[key], distiller.student.state_dict()[key]) == freeze
    assert all(m.training for m in distiller.student.modules())
    before = snapshot(distiller.student)
    distiller.imitation_step(torch.randn(8, 16), optim['student'])
    assert not torch.equal(before[key], distiller.student.state_dict()[key])


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_segmentors_give_dense_labels_and_lose_their_auxiliary_heads(build):
    distiller, _ = build()
    images, student_labels, teacher_labels = distiller.probe(torch.randn(2, 16))
    assert images.shape[2:] == student_labels.shape[1:] == teacher_labels.shape[1:] == (32, 24)
    assert not any('auxiliary_head' in name for name, _ in distiller.named_parameters())
    # SyncBN works on several devices only: the teacher's is reverted, and mmengine reverts the student's
    assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in distiller.teacher.modules())


@both_tasks
@pytest.mark.parametrize('size', [(20, 28), (48, 40)])
def test_a_student_of_another_size(build, size):
    """It sees resized images and its logits are those of the teacher's pixels; both steps go through."""
    distiller, optim = build(model__student__image_size=size)
    images = distiller.generator(torch.randn(4, 16))
    seen = []
    handle = distiller.student.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[2:]))
    logits = distiller.student_logits(images)
    handle.remove()
    assert seen == [size]
    assert logits.shape == distiller.teacher(images).shape
    assert distiller.generation_step(torch.randn(4, 16), optim['generator'])['generation_loss'] < 0
    with torch.no_grad():
        own = distiller.eval().student(distiller.to_student_pixels(images))
        if logits.ndim == 4:
            own = torch.nn.functional.interpolate(own, images.shape[2:], mode='bilinear', antialias=True)
        torch.testing.assert_close(distiller.student_logits(images), own)
    distiller.train()
    assert distiller.imitation_step(torch.randn(4, 16), optim['student'])['imitation_loss'] > 0
    _, student_labels, teacher_labels = distiller.probe(torch.randn(4, 16))
    assert student_labels.shape == teacher_labels.shape


def test_agreement_on_data_of_the_students_size(build):
    """The teacher, of 16 pixels, gets them resized."""
    distiller, _ = build(model__val_agreement=True, model__student__image_size=24)
    distiller.eval()
    data = dict(inputs=torch.randint(0, 256, (4, 3, 24, 24)))
    teacher = distiller.teacher_player.model
    inputs = torch.nn.functional.interpolate(
        teacher.data_preprocessor(data)['inputs'], (16, 16), mode='bilinear', antialias=True
    )
    expected = teacher(inputs).argmax(1)
    assert [int(sample.teacher_label) for sample in distiller.val_step(data)] == expected.tolist()


# Predictions are the student's own.


def test_predictions_on_data_are_the_students(build):
    distiller, _ = build(model__val_agreement=True)
    distiller.eval()
    data = dict(inputs=torch.randint(0, 256, (4, 3, 16, 16)))
    predicted = distiller.val_step(data)
    expected = distiller.student_player.model.val_step(data)
    for sample, own in zip(predicted, expected, strict=True):
        assert torch.equal(sample.pred_score, own.pred_score)
        assert sample.student_label == own.pred_label
    teacher = distiller.teacher_player.model.val_step(data)
    assert [int(s.teacher_label) for s in predicted] == [int(s.pred_label) for s in teacher]


# Players that do not fit together.


def fails(build, message, **changes):
    with pytest.raises(DistillError, match=message):
        build(**changes)


def test_class_counts(build):
    fails(
        build,
        r"model.teacher has 5 classes and model.student has 7; set the student's",
        model__student__head__num_classes=7,
    )


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_class_counts_of_segmentors(build):
    fails(
        build,
        r"model.teacher has 5 classes and model.student has 3; .*'model.decode_head.num_classes': 5}",
        model__student__decode_head__num_classes=3,
    )


def test_kinds(build):
    segmentor = Config.fromfile(TINY_SEG).model.student
    fails(
        build,
        r'model.teacher is a classifier and model.student is a segmentor',
        model__student=dict(segmentor, _delete_=True, type='mmseg.EncoderDecoder'),
    )


def test_channels(build):
    fails(
        build,
        r'model.teacher cannot take images of shape \[1, 16, 16\] .*change model.generator.image_size or',
        model__generator__channels=1,
    )


def test_image_size(build):
    # VGG halves the image five times; 16 pixels are too few
    fails(
        build,
        r'model.student cannot take images of shape \[3, 16, 16\] .*change model.generator.image_size or',
        model__student__backbone=dict(_delete_=True, type='VGG', depth=11, num_classes=5),
        model__student__neck=None,
        model__student__head=dict(_delete_=True, type='ClsHead'),
    )


SWIN = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1]),
        img_size=32,
        patch_size=2,
        window_size=8,
        out_indices=(1,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=16),
)
MIXER = dict(
    type='ImageClassifier',
    backbone=dict(
        type='MlpMixer',
        arch=dict(embed_dims=8, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=8),
        img_size=32,
        patch_size=8,
    ),
    neck=dict(type='GlobalAveragePooling', dim=1),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=8),
)


@pytest.mark.parametrize('model', [SWIN, MIXER], ids=['windows', 'positions'])
def test_sizes_that_a_backbone_is_built_for(build, model):
    """Too small for the windows, or for the positions: said at build time; a size of its own is the remedy."""
    message = r'model.student cannot take images of shape \[3, 16, 16\] .*or model.student.image_size'
    fails(build, message, model__student=dict(model, _delete_=True))
    distiller, optim = build(model__student=dict(model, image_size=32, _delete_=True))
    assert distiller.imitation_step(torch.randn(4, 16), optim['student'])['imitation_loss'] > 0
    message = r'model.student cannot take images of shape \[3, 12, 12\] .*or model.student.image_size'
    fails(build, message, model__student=dict(model, image_size=12, _delete_=True))
    message = r'model.teacher cannot take images of shape \[3, 16, 16\] .*change model.generator.image_size'
    teacher = dict(model, checkpoint=None, _delete_=True)
    fails(build, message, model__teacher=teacher, model__allow_random_teacher=True)


def multi_label(**changes):
    head = dict(type='MultiLabelLinearClsHead', num_classes=5, _delete_=True)
    return dict(
        model__teacher__head=dict(head, in_channels=64),
        model__student__head=dict(head, in_channels=32),
        model__teacher__checkpoint=None,
        model__allow_random_teacher=True,
        **changes,
    )


def test_one_label_and_several(build):
    several = multi_label()
    several.pop('model__teacher__head')
    fails(
        build,
        r'model.teacher is single-label \(one softmax\) and model.student is multi-label .*such as LinearClsHead',
        **several,
    )


def test_one_label_and_several_the_other_way(build):
    several = multi_label()
    several.pop('model__student__head')
    fails(build, r'model.teacher is multi-label .* and model.student is single-label .* MultiLabelLinear', **several)


def test_multi_label_models_are_distilled_by_logits_only(build):
    distiller, optim = build(**multi_label())
    assert distiller.teacher.multi_label
    assert distiller.imitation_step(torch.randn(4, 16), optim['student'])['imitation_loss'] > 0
    kl = dict(type='KLDiscrepancy')
    message = (
        r"model.{}=KLDiscrepancy compares softmaxes, but the teacher is multi-label .*dict\(type='L1Discrepancy'\)"
    )
    fails(build, message.format('imitation_loss'), model__imitation_loss=kl)
    fails(build, message.format('generation_loss'), model__imitation_loss=None, model__generation_loss=kl)
    replay = dict(type='ReplayPool', capacity=4, batch_size=4, push=4)
    fails(build, message.format('replay_loss'), model__generation_loss=None, model__replay=replay)
    fails(
        build,
        r'OneHotPrior takes a softmax over classes, but the teacher is multi-label .*model.generation_priors',
        model__replay=None,
        model__generation_priors=[dict(type='OneHotPrior')],
    )


def test_self_supervised_models_are_refused(build):
    teacher = Config.fromfile(TINY).model.teacher
    selfsup = dict(
        type='SimSiam',
        backbone=teacher.backbone,
        neck=dict(type='NonLinearNeck', in_channels=64, hid_channels=8, out_channels=8),
        head=dict(
            type='LatentPredictHead',
            loss=dict(type='CosineSimilarityLoss'),
            predictor=dict(type='LinearNeck', in_channels=8, out_channels=8),
        ),
        checkpoint=None,
        _delete_=True,
    )
    fails(
        build,
        r'model.teacher: SimSiam .*gives no class logits to distil: it learns features without labels',
        model__teacher=selfsup,
        model__allow_random_teacher=True,
    )


@pytest.mark.parametrize('key', ['imitation_loss', 'generation_loss'])
def test_unknown_loss(build, key):
    fails(
        build,
        rf'(?s)cannot build model.{key}=.*NoSuchLoss is not in the mmdfad.*mmdfad has: .*KLDiscrepancy, L1Discrepancy',
        **{f'model__{key}': dict(type='NoSuchLoss')},
    )


def test_unknown_argument(build):
    fails(build, r"cannot build model.generator=.*'depth'", model__generator__depth=3)


def test_other_loops_are_refused(tiny_cfg):
    tiny_cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1)
    with pytest.raises(DistillError, match=r"trains in train_cfg.type='mmdfad.AdversarialDistillLoop'"):
        build_runner(tiny_cfg).train()
