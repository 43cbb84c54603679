"""Networks: logits, recorded tensors, replaced inputs, and the plain model inside."""

import copy
import gc
import weakref

import pytest
import torch
from conftest import TINY_SEG, assert_same_state, both_tasks, build_model
from mmengine.registry import DefaultScope
from torch import nn

from mmdfad.acceleration import FastForm, checkpoint_activations, fold_norms
from mmdfad.models.build import build_network
from mmdfad.models.network import Network
from mmdfad.models.step import Output, Step, Tap
from mmdfad.utils import DistillError

LAYER2 = Tap('teacher', 'backbone.layer2')
NORM_INPUT = Tap('teacher', 'backbone.layer2.0.bn1', 'input')


@pytest.fixture
def teacher(tiny_cfg) -> Network:
    return build(tiny_cfg, 'teacher').requires_grad_(False)


def build(cfg, role: str) -> Network:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return build_network(cfg.model[role], role).eval()


def images_for(count: int = 2, **kwargs) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 3, 16, 16, **kwargs)


def fold(network: Network) -> Network:
    network.fast = FastForm(fold_norms(network.logits, images_for()), network.logits).eval()
    assert network.fast.model is not network.logits
    return network


def calls_of(network: Network) -> list[str]:
    """Names of the form, exact or fast, that computes each forward pass from here on."""
    calls = []
    for name, model in dict(exact=network.logits, fast=network.fast.model).items():
        model.register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


# Recording


@both_tasks
def test_taps_record_inputs_and_outputs(teacher):
    taps = {LAYER2, NORM_INPUT, Tap('teacher', 'backbone.layer2', 'input')}
    expected = {}
    parts = dict(teacher.model.named_modules())
    for tap in taps:
        store = lambda module, inputs, output, tap=tap: expected.update(  # noqa: E731
            {tap: inputs[0] if tap.side == 'input' else output}
        )
        parts[tap.module].register_forward_hook(store)
    teacher.install(taps)
    with teacher.recording(taps):
        output = teacher(images_for())
    assert output.taps.keys() == taps
    assert all(output.taps[tap] is expected[tap] for tap in taps)
    assert torch.equal(output.logits, teacher.predict(images_for()))
    assert Step(images_for(), None, teacher=output)[LAYER2] is output.taps[LAYER2]


def test_a_tuple_is_recorded_as_its_last_tensor(teacher):
    taps = {Tap('teacher', 'backbone'), Tap('teacher', 'head', 'input')}
    teacher.install(taps)
    with teacher.recording(taps):
        output = teacher(images_for())
    backbone, head_input = (output.taps[tap] for tap in sorted(taps))
    assert torch.equal(backbone, teacher.model.backbone(images_for())[-1])
    assert torch.equal(head_input, backbone.mean((2, 3)))


def test_only_wanted_taps_are_recorded(teacher):
    teacher.install({LAYER2, NORM_INPUT})
    with teacher.recording({NORM_INPUT}):
        assert teacher(images_for()).taps.keys() == {NORM_INPUT}
    assert not teacher(images_for()).taps
    with teacher.recording({LAYER2}):
        assert teacher(images_for()).taps.keys() == {LAYER2}


def test_each_pass_while_recording_has_its_own_tensors(teacher):
    """A generator may show several batches of images in one update."""
    teacher.install({LAYER2})
    with teacher.recording({LAYER2}):
        outputs = [teacher(images) for images in (images_for(), images_for() + 1)]
    first, second = (output.taps[LAYER2] for output in outputs)
    with teacher.recording({LAYER2}):
        assert torch.equal(teacher(images_for() + 1).taps[LAYER2], second)
    assert not torch.equal(first, second)


def test_no_tensor_is_kept_after_recording(teacher):
    """Neither those of wanted taps nor those of installed ones that nobody wants."""
    made = []
    for name in ('backbone.layer2', 'backbone.layer2.0.conv1'):
        teacher.model.get_submodule(name).register_forward_hook(lambda m, i, output: made.append(weakref.ref(output)))
    teacher.install({LAYER2, NORM_INPUT})
    for taps in ({LAYER2, NORM_INPUT}, set()):
        with teacher.recording(taps):
            output = teacher(images_for(requires_grad=True))
            output.logits.sum().backward()
        del output
        gc.collect()
        assert len(made) == 2
        assert [ref() for ref in made] == [None, None]
        made.clear()


def test_hooks_are_installed_once(teacher):
    for _ in range(2):
        teacher.install({LAYER2})
    assert len(teacher.model.backbone.layer2._forward_hooks) == 1


def test_the_first_call_counts_with_activation_checkpointing(teacher):
    """The backward pass calls the module again. That must not change what was recorded."""
    results = []
    for checkpointed in (False, True):
        network = teacher
        if checkpointed:
            checkpoint_activations(network.model, ['backbone.layer2'], 'key')
        calls = []
        norm = network.model.get_submodule(NORM_INPUT.module)
        handle = norm.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        network.install({NORM_INPUT})
        images = images_for(requires_grad=True)
        with network.recording({NORM_INPUT}):
            output = network(images)
            recorded = output.taps[NORM_INPUT]
            before = recorded.detach().clone()
            (output.logits.sum() + recorded.square().sum()).backward()
            assert network._recorder.taps[NORM_INPUT] is recorded
        handle.remove()
        assert len(calls) == (2 if checkpointed else 1)
        assert torch.equal(recorded, before)
        results.append((recorded.detach(), images.grad))
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def test_a_module_that_runs_twice_is_recorded_at_its_first_call():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, images):
            return self.head(self.layer(self.layer(images.flatten(1))))

    torch.manual_seed(0)
    model = build_model(dict(type='mmdfad.TorchClassifier', factory='torch.nn:Identity'))
    model.model = Twice()
    network = Network(model, 'student')
    tap = Tap('student', 'model.layer')
    network.install({tap})
    images = torch.randn(2, 1, 2, 2)
    with network.recording({tap}):
        output = network(images)
    assert torch.equal(output.taps[tap], model.model.layer(images.flatten(1)))


# Replaced inputs


def test_replaced_inputs_reach_the_module(tiny_cfg):
    student = build(tiny_cfg, 'student')
    tap = Tap('student', 'backbone.layer3', 'input')
    student.install({tap})
    images = images_for()
    own = student(images).logits
    other = torch.randn_like(student.model.backbone.layer2(student.model.backbone.layer1(stem(student, images))))
    with student.recording({tap}):
        student.replace({tap: other})
        forced = student(images)
    assert not torch.equal(forced.taps[tap], other)  # the student's own input is what an objective sees
    backbone = student.model.backbone
    expected = student.model.head((backbone.layer4(backbone.layer3(other)).mean((2, 3)),))
    torch.testing.assert_close(forced.logits, expected)
    assert torch.equal(student(images).logits, own)  # only while recording


def stem(student: Network, images: torch.Tensor) -> torch.Tensor:
    backbone = student.model.backbone
    return backbone.relu(backbone.norm1(backbone.conv1(student.pixels(images))))


def test_replaced_inputs_stay_replaced_in_the_backward_pass_with_activation_checkpointing(tiny_cfg):
    tap = Tap('student', 'backbone.layer2.1', 'input')
    tiny_cfg.model.student.backbone.zero_init_residual = False
    gradients = []
    for checkpointed in (False, True):
        student = build(tiny_cfg, 'student').train()
        if checkpointed:
            checkpoint_activations(student.model, ['backbone.layer2'], 'key')
        student.install({tap})
        with student.recording({tap}):
            student.replace({tap: torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(2))})
            student(images_for()).logits.square().sum().backward()
        gradients.append({name: p.grad for name, p in student.named_parameters()})
    assert_same_state(*({k: v for k, v in found.items() if v is not None} for found in gradients))
    assert gradients[0]['logits.model.backbone.layer2.0.conv1.weight'] is None  # what comes before is cut off
    assert gradients[0]['logits.model.backbone.layer2.1.conv1.weight'].abs().sum() > 0


# The fast form


def test_a_tap_that_the_folded_teacher_lacks_comes_from_the_exact_one(teacher):
    teacher.install({LAYER2, NORM_INPUT})
    calls = calls_of(fold(teacher))
    found = {}
    for taps, form in (
        (set(), 'fast'),
        ({LAYER2}, 'fast'),
        ({NORM_INPUT}, 'exact'),
        ({LAYER2, NORM_INPUT}, 'exact'),
        ({LAYER2}, 'fast'),
    ):
        with teacher.recording(taps):
            output = teacher(images_for())
        assert calls == [form]
        calls.clear()
        assert output.taps.keys() == taps
        found.setdefault(form, []).append(output)
    fast, exact = found['fast'][1], found['exact'][1]
    torch.testing.assert_close(fast.taps[LAYER2], exact.taps[LAYER2], rtol=1e-4, atol=1e-5)
    assert not torch.equal(fast.logits, exact.logits)
    assert not teacher.predict(images_for()).equal(fast.logits)


@pytest.mark.parametrize('side', ['input', 'output'])
def test_outputs_of_folded_convolutions_come_from_the_exact_teacher(teacher, side):
    """A folded convolution already gives what the batch norm behind it would."""
    tap = Tap('teacher', 'backbone.layer1.0.conv1', side)
    teacher.install({tap})
    with teacher.recording({tap}):
        expected = teacher(images_for()).taps[tap]
    fold(teacher)
    with teacher.recording({tap}):
        assert torch.equal(teacher(images_for()).taps[tap], expected)


def test_predict_is_exact_and_records_nothing(teacher):
    exact = teacher(images_for()).logits
    teacher.install({LAYER2})
    calls = calls_of(fold(teacher))
    assert torch.equal(teacher.predict(images_for()), exact)
    assert calls == ['exact']
    with teacher.recording({LAYER2}):
        recorded = teacher(images_for())
        teacher.predict(images_for() + 1)
        assert torch.equal(teacher._recorder.taps[LAYER2], recorded.taps[LAYER2])


# Copies


def test_copies_record_too(tiny_cfg):
    """mmengine's EMAHook copies the distiller, and compares nothing with it."""
    student = build(tiny_cfg, 'student')
    tap = Tap('student', 'backbone.layer1')
    student.install({tap})
    copied = copy.deepcopy(student)
    with torch.no_grad():
        copied.model.backbone.conv1.weight.mul_(2)
    outputs = []
    for network in (student, copied):
        with network.recording({tap}):
            outputs.append(network(images_for()).taps[tap])
    assert not torch.equal(*outputs)


# Errors


def test_unknown_modules_are_named(teacher):
    message = (
        r"an objective wants to see 'layer1', but model.teacher has no such module; some of its modules are .*"
        r'backbone.layer1, '
    )
    with pytest.raises(DistillError, match=message):
        teacher.install({Tap('teacher', 'layer1')})


@pytest.mark.parametrize('side', ['input', 'output'])
def test_modules_that_are_never_called_are_named(teacher, side):
    tap = Tap('teacher', 'head.loss_module', side)
    teacher.install({tap})
    message = (
        r'an objective wants to see head.loss_module of model.teacher, but its forward pass does not call that module'
    )
    with teacher.recording({tap}), pytest.raises(DistillError, match=message):
        teacher(images_for())


def test_models_without_logits_name_the_role():
    with pytest.raises(DistillError, match=r'model.teacher: Linear gives no class logits'):
        Network(nn.Linear(2, 2), 'teacher')


# Images of another size, and the plain model


def test_logits_of_segmentors_have_the_size_of_the_images(tiny_cfg, teacher_checkpoints):
    cfg = tiny_cfg.fromfile(TINY_SEG)
    cfg.model.teacher.checkpoint = teacher_checkpoints[TINY_SEG]
    cfg.model.student.image_size = (20, 28)
    teacher, student = (build(cfg, role) for role in ('teacher', 'student'))
    student.take_pixels_of(teacher)
    images = torch.randn(2, 3, 32, 24)
    assert student.pixels(images).shape == (2, 3, 20, 28)
    output = student(images)
    assert isinstance(output, Output)
    assert output.logits.shape == teacher(images).logits.shape == (2, 5, 32, 24)
    assert torch.equal(student.predict(images), output.logits)


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_the_plain_state_is_that_of_the_whole_model(tiny_cfg):
    """With auxiliary heads, which the network itself does not hold."""
    student = build(tiny_cfg, 'student')
    model_cfg = {k: v for k, v in tiny_cfg.model.student.items() if k != 'pretrained'}
    expected = build_model(model_cfg, 'mmseg').state_dict()
    state = {key: value.clone() for key, value in student.plain_state().items()}
    assert state.keys() == expected.keys()
    assert not any('auxiliary_head' in name for name, _ in student.named_parameters())

    changed = {key: value + 1 for key, value in state.items()}
    student.load_plain_state(changed)
    assert_same_state(student.plain_state(), changed)
    averaged = {key: value for key, value in state.items() if not key.startswith('auxiliary_head')}
    mixed = student.plain_state(averaged)
    assert mixed.keys() == expected.keys()
    assert all(torch.equal(mixed[key], value) for key, value in averaged.items())
    student.load_plain_state({'backbone.stem.0.weight': state['backbone.stem.0.weight']})  # the rest stays
    assert torch.equal(student.plain_state()['backbone.stem.0.weight'], state['backbone.stem.0.weight'])
    assert torch.equal(student.plain_state()['decode_head.conv_seg.bias'], changed['decode_head.conv_seg.bias'])


def test_meta_comes_from_the_checkpoint_first(tiny_cfg, teacher):
    run = tiny_cfg.fromstring("test_dataloader = dict(dataset=dict(metainfo=dict(classes=['x'])))", '.py')
    assert teacher.meta_in(run)['classes'] == list('abcde')
    teacher.dataset_meta = {}
    assert teacher.meta_in(run).get('classes') == ['x']
