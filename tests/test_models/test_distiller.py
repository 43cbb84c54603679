"""Laws 2 and 3, and what a distiller predicts."""

import copy
import gc
import re
import weakref

import pytest
import torch
from conftest import TINY_SEG, assert_same_state, both_tasks, build_runner
from distillers import assert_refused, build_distiller, noise_for, snapshot
from torch import nn

from mmdfad.acceleration import checkpoint_activations
from mmdfad.engine import DistillOptimWrapperConstructor
from mmdfad.models import Objective
from mmdfad.models.distiller import agreement
from mmdfad.models.step import Step, Tap
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError
from mmdfad.utils.migration import REMOVED


def grads(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def same_grads(a, b):
    return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in zip(a, b, strict=True))


# Law 2: the teacher


@both_tasks
def test_teacher_is_unchanged_in_eval_and_in_no_state(tiny_cfg):
    generation = [dict(type='L1Discrepancy'), dict(type='BNStatisticsPrior')]
    distiller, optim = build_distiller(tiny_cfg, model__generation=generation)
    before = snapshot(distiller.teacher)
    for _ in range(2):
        distiller.train()
        distiller.imitation_step(noise_for(), optim['student'])
        distiller.generation_step(noise_for(), optim['generator'])
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
def test_copies_share_the_teacher(tiny_cfg):
    """mmengine's EMAHook copies the distiller, and averages what the copy holds."""
    distiller, _ = build_distiller(tiny_cfg)
    copied = copy.deepcopy(distiller)
    assert copied.teacher is distiller.teacher
    assert copied.student is not distiller.student


def test_teacher_follows_to_another_type_and_device(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg)
    distiller.double()
    assert all(p.dtype == torch.float64 for p in distiller.teacher.parameters())
    distiller.float().to('meta')
    assert all(p.device.type == 'meta' for p in distiller.teacher.parameters())


def test_random_teacher_needs_permission(tiny_cfg):
    assert_refused(
        tiny_cfg,
        r'the teacher has no weights: set model.teacher.checkpoint .*model.allow_random_teacher=True',
        model__teacher__checkpoint=None,
    )
    build_distiller(tiny_cfg, model__allow_random_teacher=True)


# Law 3: the steps


@both_tasks
def test_imitation_step_moves_the_student_only(tiny_cfg):
    distiller, optim = build_distiller(tiny_cfg)
    distiller.generation_step(noise_for(), optim['generator'])
    for p in distiller.generator.parameters():
        p.grad = torch.ones_like(p)
    generator = {k: v.clone() for k, v in distiller.generator.named_parameters()}
    left = grads(distiller.generator)
    student = snapshot(distiller.student)
    log = distiller.imitation_step(noise_for(), optim['student'])
    assert log['imitation_loss'] > 0
    assert 0 <= log['agreement'] <= 1
    assert all(torch.equal(p, generator[k]) for k, p in distiller.generator.named_parameters())
    assert same_grads(grads(distiller.generator), left)
    assert not all(torch.equal(p, student[k]) for k, p in distiller.student.named_parameters())


@both_tasks
def test_generation_step_moves_the_generator_only(tiny_cfg):
    distiller, optim = build_distiller(tiny_cfg)
    for p in distiller.student.parameters():
        p.grad = torch.ones_like(p)
    student = {k: v.clone() for k, v in distiller.student.named_parameters()}
    left = grads(distiller.student)
    generator = snapshot(distiller.generator)
    log = distiller.generation_step(noise_for(), optim['generator'])
    assert log['generation_loss'] < 0
    assert all(torch.equal(p, student[k]) for k, p in distiller.student.named_parameters())
    assert same_grads(grads(distiller.student), left)
    assert not torch.equal(distiller.generator.state_dict()['project.weight'], generator['project.weight'])


def test_flags_are_restored_and_frozen_student_layers_stay_so(tiny_cfg):
    distiller, optim = build_distiller(tiny_cfg)
    distiller.student.model.backbone.conv1.requires_grad_(False)
    flags = [p.requires_grad for p in distiller.parameters()]
    distiller.imitation_step(noise_for(), optim['student'])
    distiller.generation_step(noise_for(), optim['generator'])
    assert [p.requires_grad for p in distiller.parameters()] == flags


@both_tasks
def test_left_over_gradients_do_not_count(tiny_cfg):
    """The update is the same, whatever was in .grad before."""
    results = []
    for dirt in (0.0, 100.0):
        distiller, optim = build_distiller(tiny_cfg)
        for p in distiller.parameters():
            p.grad = torch.full_like(p, dirt)
        torch.manual_seed(1)
        distiller.imitation_step(noise_for(), optim['student'])
        distiller.generation_step(noise_for(), optim['generator'])
        results.append(snapshot(distiller))
    assert_same_state(*results)


def test_accumulated_gradients_are_those_of_the_large_batch(tiny_cfg):
    noise = noise_for()
    results = []
    for batches in ([noise], noise.split(4)):
        distiller, _ = build_distiller(tiny_cfg)
        distiller.eval()  # batch norm would tell the batches apart
        cfg = dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=len(batches))
        optim = DistillOptimWrapperConstructor(dict(student=cfg, generator=cfg))(distiller)
        for batch in batches:
            distiller.imitation_step(batch, optim['student'])
        for batch in batches:
            distiller.generation_step(batch, optim['generator'])
        results.append(snapshot(distiller))
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('bn_eval', [False, True])
def test_student_batch_norms_in_generation_steps(tiny_cfg, bn_eval):
    distiller, optim = build_distiller(tiny_cfg)
    key = 'logits.model.backbone.bn1.running_mean'
    before = snapshot(distiller.student)
    distiller.generation_step(noise_for(), optim['generator'], student_bn_eval=bn_eval)
    assert torch.equal(before[key], distiller.student.state_dict()[key]) == bn_eval
    assert all(m.training for m in distiller.student.modules())
    before = snapshot(distiller.student)
    distiller.imitation_step(noise_for(), optim['student'])
    assert not torch.equal(before[key], distiller.student.state_dict()[key])


# Law 3 with recorded tensors and replaced inputs


@MODELS.register_module()
class ForcedStage(Objective):
    """Teacher forcing: one stage of the student gets the teacher's input, and imitates the teacher's output.

    The input goes to a module inside of a checkpointed one.
    """

    name = 'forced_stage'

    def bind(self, teacher, student) -> set[Tap]:
        self.teacher_input = Tap('teacher', 'backbone.layer2.1', 'input')
        self.student_input = Tap('student', 'backbone.layer2.1', 'input')
        self.outputs = [Tap(role, 'backbone.layer2') for role in ('teacher', 'student')]
        return {self.teacher_input, self.student_input, *self.outputs}

    def replacements(self, step: Step) -> dict[Tap, torch.Tensor]:
        return {self.student_input: step[self.teacher_input]}

    def forward(self, step: Step) -> torch.Tensor:
        teacher, student = (step[tap] for tap in self.outputs)
        return (student - teacher).square().mean()


def as_wide_student(cfg) -> None:
    """Give the student the teacher's widths, so that it can take the teacher's features."""
    cfg.model.student.backbone.update(base_channels=8, stem_channels=8, zero_init_residual=False)
    cfg.model.student.head.in_channels = 64


def test_teacher_forcing_trains_the_stage_on_the_teachers_features(tiny_cfg):
    as_wide_student(tiny_cfg)
    distiller, optim = build_distiller(tiny_cfg, model__imitation=[dict(type='mmdfad.ForcedStage')])
    student, teacher = copy.deepcopy(distiller.student.model), distiller.teacher.model
    with torch.no_grad():
        images = copy.deepcopy(distiller.generator)(noise_for())
        first, second = teacher.backbone.layer2
        features = first(teacher.backbone.layer1(stem(teacher, images)))
        target = second(features)
    expected = (student.backbone.layer2[1](features) - target).square().mean()
    log = distiller.imitation_step(noise_for(), optim['student'])
    torch.testing.assert_close(log['imitation_loss'], expected.detach())
    expected.backward()
    weight = dict(student.named_parameters())['backbone.layer2.1.conv1.weight']
    lr = tiny_cfg.optim_wrapper.student.optimizer.lr
    decay = tiny_cfg.optim_wrapper.student.optimizer.weight_decay
    trained = dict(distiller.student.model.named_parameters())
    torch.testing.assert_close(trained['backbone.layer2.1.conv1.weight'], weight * (1 - lr * decay) - lr * weight.grad)
    assert torch.equal(trained['backbone.layer1.0.conv1.weight'], student.backbone.layer1[0].conv1.weight)


def stem(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.backbone.relu(model.backbone.norm1(model.backbone.conv1(images)))


def test_teacher_forcing_is_bitwise_the_same_with_activation_checkpointing(tiny_cfg):
    as_wide_student(tiny_cfg)
    tiny_cfg.model.imitation = [dict(type='mmdfad.ForcedStage', weight=3.0), dict(type='L1Discrepancy')]
    states = []
    for checkpointed in (False, True):
        distiller, optim = build_distiller(tiny_cfg)
        if checkpointed:
            for network in (distiller.teacher, distiller.student):
                checkpoint_activations(network.model, ['backbone.layer2', 'backbone.layer3'], 'key')
        for seed in range(3):
            distiller.imitation_step(noise_for(seed=seed), optim['student'])
            distiller.generation_step(noise_for(seed=10 + seed), optim['generator'])
        states.append(snapshot(distiller))
    assert_same_state(*states)


def test_nothing_stays_replaced_in_the_generation_phase(tiny_cfg):
    as_wide_student(tiny_cfg)
    forced, optim = build_distiller(tiny_cfg, model__imitation=[dict(type='mmdfad.ForcedStage')])
    plain, plain_optim = build_distiller(tiny_cfg, model__imitation=[dict(type='L1Discrepancy')])
    forced.imitation_step(noise_for(), optim['student'])
    plain.load_state_dict(forced.state_dict())
    logs = [d.generation_step(noise_for(), o['generator']) for d, o in ((forced, optim), (plain, plain_optim))]
    assert torch.equal(logs[0]['generation_loss'], logs[1]['generation_loss'])
    assert_same_state(forced.state_dict(), plain.state_dict())


@both_tasks
def test_no_recorded_tensor_outlives_a_step(tiny_cfg):
    distiller, optim = build_distiller(
        tiny_cfg,
        model__imitation=[dict(type='AttentionTransfer')],
        model__generation=[dict(type='BNStatisticsPrior')],
    )
    seen = []
    for network in (distiller.teacher, distiller.student):
        for layer in (network.model.backbone.layer1, network.model.backbone.layer2):
            layer.register_forward_hook(lambda module, inputs, output: seen.append(weakref.ref(output)))
    distiller.imitation_step(noise_for(), optim['student'])
    distiller.generation_step(noise_for(), optim['generator'])
    gc.collect()
    assert len(seen) == 6  # the generation phase does not run the student
    assert not any(ref() is not None for ref in seen)


def test_replayed_images_are_those_of_generation_steps(tiny_cfg):
    inner = tiny_cfg.model.generator
    tiny_cfg.model.generator = dict(type='ReplayGenerator', generator=inner, capacity=4, replayed=4, push=4)
    distiller, optim = build_distiller(tiny_cfg)
    seen, made = [], []
    distiller.student.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    distiller.imitation_step(noise_for(), optim['student'])
    handle = distiller.generator.learner.register_forward_hook(lambda m, i, images: made.append(images.detach()))
    distiller.generation_step(noise_for(seed=2), optim['generator'])
    handle.remove()
    assert torch.equal(distiller.generator.memory.images, made[0][:4])
    assert not distiller.generator.memory.images.requires_grad
    distiller.imitation_step(noise_for(seed=3), optim['student'])
    assert [len(images) for images in seen] == [8, 8, 8 + 4]
    kept = {tuple(image.flatten().tolist()) for image in made[0][:4]}
    assert all(tuple(image.flatten().tolist()) in kept for image in seen[-1][8:])


# What both networks make of noise and of data


def test_probe_leaves_no_trace(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg)
    before, modes = snapshot(distiller), [m.training for m in distiller.modules()]
    images, student_logits, teacher_logits = distiller.probe(noise_for())
    assert images.shape == (8, 3, 16, 16)
    assert student_logits.shape == teacher_logits.shape == (8, 5)
    assert torch.equal(teacher_logits, distiller.teacher.predict(images))
    assert_same_state(snapshot(distiller), before)
    assert [m.training for m in distiller.modules()] == modes
    distiller.eval()
    assert torch.equal(student_logits, distiller.student.predict(images))


def test_noise_is_labelled_by_both_networks(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg)
    _, student_logits, teacher_logits = distiller.probe(noise_for())
    samples = distiller.val_step(noise_for())
    assert [int(s['student_label']) for s in samples] == student_logits.argmax(1).tolist()
    assert [int(s['teacher_label']) for s in samples] == teacher_logits.argmax(1).tolist()


def test_student_sees_its_own_pixels(tiny_cfg):
    """The tiny teacher and student differ in mean, std and channel order."""
    distiller, _ = build_distiller(tiny_cfg)
    images = torch.randn(2, 3, 16, 16)
    teacher, student = (network.model.data_preprocessor for network in (distiller.teacher, distiller.student))
    loaded = (images * teacher.std + teacher.mean).flip(1)
    expected = (loaded - student.mean) / student.std
    torch.testing.assert_close(distiller.student.pixels(images), expected)
    seen = []
    distiller.student.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    distiller.student(images)
    torch.testing.assert_close(seen[0], expected)
    assert distiller.teacher.pixels(images) is images


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_segmentors_give_dense_logits_and_lose_their_auxiliary_heads(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg)
    images, student_logits, teacher_logits = distiller.probe(noise_for(2))
    assert images.shape == (2, 3, 32, 24)
    assert student_logits.shape == teacher_logits.shape == (2, 5, 32, 24)
    assert not any('auxiliary_head' in name for name, _ in distiller.named_parameters())
    # SyncBN works on several devices only. The teacher's is reverted here. mmengine reverts the student's.
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in distiller.teacher.modules())


@both_tasks
@pytest.mark.parametrize('size', [(20, 28), (48, 40)])
def test_a_student_of_another_size(tiny_cfg, size):
    """It sees resized images, its logits have the size of the teacher's, and both steps run."""
    distiller, optim = build_distiller(tiny_cfg, model__student__image_size=size)
    images = distiller.generator(noise_for(4))
    seen = []
    handle = distiller.student.logits.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[2:]))
    logits = distiller.student(images).logits
    handle.remove()
    assert seen == [size]
    assert logits.shape == distiller.teacher(images).logits.shape
    assert distiller.generation_step(noise_for(4), optim['generator'])['generation_loss'] < 0
    with torch.no_grad():
        distiller.eval()
        own = distiller.student.logits(distiller.student.pixels(images))
        if logits.ndim == 4:
            own = nn.functional.interpolate(own, images.shape[2:], mode='bilinear', antialias=True)
        torch.testing.assert_close(distiller.student(images).logits, own)
    distiller.train()
    assert distiller.imitation_step(noise_for(4), optim['student'])['imitation_loss'] > 0
    _, student_logits, teacher_logits = distiller.probe(noise_for(4))
    assert student_logits.shape == teacher_logits.shape


def test_agreement_on_data_of_the_students_size(tiny_cfg):
    """The teacher, which takes 16 pixels, gets the images resized."""
    distiller, _ = build_distiller(tiny_cfg, model__val_agreement=True, model__student__image_size=24)
    distiller.eval()
    torch.manual_seed(0)
    data = dict(inputs=torch.randint(0, 256, (4, 3, 24, 24)))
    teacher = distiller.teacher.model
    inputs = nn.functional.interpolate(
        teacher.data_preprocessor(data)['inputs'], (16, 16), mode='bilinear', antialias=True
    )
    expected = teacher(inputs).argmax(1)
    assert [int(sample.teacher_label) for sample in distiller.val_step(data)] == expected.tolist()


def test_predictions_on_data_are_the_students(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg, model__val_agreement=True)
    distiller.eval()
    torch.manual_seed(0)
    data = dict(inputs=torch.randint(0, 256, (4, 3, 16, 16)))
    predicted = distiller.val_step(data)
    expected = distiller.student.model.val_step(data)
    for sample, own in zip(predicted, expected, strict=True):
        assert torch.equal(sample.pred_score, own.pred_score)
        assert sample.student_label == own.pred_label
    teacher = distiller.teacher.model.val_step(data)
    assert [int(s.teacher_label) for s in predicted] == [int(s.pred_label) for s in teacher]
    images = distiller.student.model.data_preprocessor(data)['inputs']
    assert torch.equal(distiller(images), distiller.student.model(images))


@pytest.mark.parametrize('shape', [(4, 3), (2, 3, 2, 2)])
def test_agreement_is_the_share_of_equal_labels(shape):
    student = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert agreement(student, 2 * student + 1) == 1
    teacher = student.clone()
    teacher[0] = -teacher[0]  # in half or a quarter of all labels
    share = (teacher.argmax(1) == student.argmax(1)).double().mean()
    assert 0 < share < 1
    assert agreement(student, teacher) == pytest.approx(share.item())


# Unusable configs


def test_other_loops_are_refused(tiny_cfg):
    tiny_cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1)
    with pytest.raises(DistillError, match=r"the noise has no length .*train_cfg.type='mmdfad.AdversarialDistillLoop'"):
        build_runner(tiny_cfg).train()
    tiny_cfg.train_dataloader.dataset.noise_dim = 16
    with pytest.raises(DistillError, match=r"trains in train_cfg.type='mmdfad.AdversarialDistillLoop'"):
        build_runner(tiny_cfg).train()


@pytest.mark.parametrize('key', REMOVED['model'])
def test_settings_of_earlier_versions_end_with_what_to_write(tiny_cfg, key):
    """Also where they are set to what used to be their default."""
    message = rf'model.{key} is a setting of an earlier version; write {re.escape(REMOVED["model"][key])}'
    assert_refused(tiny_cfg, message, **{f'model__{key}': None})


@pytest.mark.parametrize(
    ('key', 'hint'), [('imitations', 'did you mean imitation?'), ('xyz', 'it takes teacher, student, generator, gen')]
)
def test_unknown_settings_are_named(tiny_cfg, key, hint):
    assert_refused(tiny_cfg, rf'model.{key} is unknown; {re.escape(hint)}', **{f'model__{key}': []})


def test_unknown_arguments_of_a_part_are_named(tiny_cfg):
    assert_refused(tiny_cfg, r"cannot build model.generator=.*'depth'", model__generator__depth=3)
