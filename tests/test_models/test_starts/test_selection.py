"""Weight selection, and when the loop applies a start."""

import pytest
import torch
from conftest import assert_same_run, both_tasks, build_runner, run
from distillers import assert_refused, build_distiller
from mmengine.hooks import Hook
from torch import nn

from mmdfad.models import ChannelSelection, Start
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError
from mmdfad.utils.state_dict import select_weights

START = dict(type='ChannelSelection')


class WatchStudent(Hook):
    """Keeps the student's weights as they are when a round begins."""

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        state = runner.model.student.model.state_dict()
        self.seen[batch_idx] = {key: value.clone() for key, value in state.items()}


@MODELS.register_module()
class CountingStart(Start):
    """Sets one bias to the mean of generated images, and keeps what it was given."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.samples = []

    def apply(self, teacher, student, sample):
        assert not student.training
        assert not torch.is_grad_enabled()
        self.samples.append([sample(4), sample(2)])
        student.model.head.fc.bias.fill_(float(self.samples[-1][0].mean()))


def is_selected(student: dict[str, torch.Tensor], teacher: dict[str, torch.Tensor]) -> bool:
    expected = select_weights(student, teacher)
    return all(torch.equal(student[key], value) for key, value in expected.items())


# Selection


def test_weight_selection_keeps_the_same_channels_from_layer_to_layer():
    """Only channels 0, 2 and 4 of six matter here, so a model of half the width gives the same outputs."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        wide[2].weight[:, 1::2] = 0
    narrow = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    narrow.load_state_dict(select_weights(narrow.state_dict(), wide.state_dict()))
    x = torch.randn(5, 4)
    assert torch.allclose(narrow(x), wide(x))


def test_weight_selection_leaves_out_what_does_not_fit():
    expected = dict(wider=torch.zeros(4), other=torch.zeros(2), deeper=torch.zeros(2, 2), fits=torch.zeros(2))
    larger = dict(wider=torch.zeros(3), deeper=torch.zeros(4), fits=torch.arange(5))
    selected = select_weights(expected, larger)
    assert {key: value.tolist() for key, value in selected.items()} == dict(fits=[0, 2])


@both_tasks
def test_the_student_gets_channels_of_the_teacher(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg, model__start=START)
    teacher, student = distiller.teacher.model, distiller.student.model
    before = student.backbone.layer1[0].conv2.weight.detach().clone()
    assert not is_selected(student.state_dict(), teacher.state_dict())  # building applies nothing
    distiller.apply_start(None)
    assert not torch.equal(before, student.backbone.layer1[0].conv2.weight)
    for name in ('backbone.layer1.0.conv2', 'backbone.layer1.1.conv1'):
        assert torch.equal(student.get_submodule(name).weight, teacher.get_submodule(name).weight[::2, ::2])
    norm = 'backbone.layer1.0.bn1.running_var'
    assert torch.equal(student.state_dict()[norm], teacher.state_dict()[norm][::2])
    assert distiller.student.training


@both_tasks
def test_auxiliary_heads_start_from_the_teacher_too(tiny_cfg):
    """They are in the exported student."""
    distiller, _ = build_distiller(tiny_cfg, model__start=START)
    distiller.apply_start(None)
    student, teacher = distiller.student.plain_state(), distiller.teacher.plain_state()
    assert student.keys() == teacher.keys()
    assert is_selected(student, teacher)


# Refused at build time


@pytest.mark.parametrize(
    ('settings', 'missing'),
    [
        (dict(backbone__depth=34), 'backbone.layer1.2.bn1.bias'),
        (dict(backbone__base_channels=16, head__in_channels=128), 'backbone.layer1.0.bn1.bias'),
    ],
    ids=['deeper', 'wider'],
)
def test_only_a_narrower_or_shallower_student_is_accepted(tiny_cfg, settings, missing):
    message = r'needs a student that is a narrower or shallower .* but \d+ of its parameters have no .* such as '
    changes = {f'model__student__{key}': value for key, value in settings.items()}
    assert_refused(tiny_cfg, message + missing, model__start=START, **changes)


def test_a_student_starts_from_one_thing_only(tiny_cfg, teacher_checkpoint):
    as_wide = {f'model__student__{key}': 8 for key in ('backbone__base_channels', 'backbone__stem_channels')}
    assert_refused(
        tiny_cfg,
        r'give either model.student.checkpoint or model.start, not both',
        **as_wide,
        model__student__head__in_channels=64,
        model__student__checkpoint=teacher_checkpoint,
        model__start=START,
    )


def test_a_bad_round_is_named():
    with pytest.raises(DistillError, match='begin of ChannelSelection must be a whole number, 0 or more, but found -1'):
        ChannelSelection(begin=-1)


# In the loop


@both_tasks
@pytest.mark.parametrize('begin', [0, 2])
def test_the_loop_applies_it_before_its_round(tiny_cfg, begin):
    runner = build_runner(tiny_cfg, model__start=dict(START, begin=begin), train_cfg__max_iters=4)
    watch = WatchStudent()
    runner.register_hook(watch)
    runner.train()
    teacher = runner.model.teacher.model.state_dict()
    assert [is_selected(watch.seen[i], teacher) for i in range(4)] == [i == begin for i in range(4)]


def test_resuming_does_not_apply_it_again(tiny_cfg, tmp_path):
    tiny_cfg.model.start = START
    whole = run(tiny_cfg, work_dir=str(tmp_path / 'whole'), train_cfg__max_iters=4)
    run(tiny_cfg, work_dir=str(tmp_path / 'parts'), train_cfg__max_iters=2)
    resumed = build_runner(tiny_cfg, work_dir=str(tmp_path / 'parts'), train_cfg__max_iters=4, resume=True)
    watch = WatchStudent()
    resumed.register_hook(watch)
    resumed.train()
    assert [*watch.seen] == [2, 3]
    assert not is_selected(watch.seen[2], resumed.model.teacher.model.state_dict())
    assert_same_run(resumed, whole)


def test_a_start_gets_new_generated_images_at_each_call(tiny_cfg, tmp_path):
    tiny_cfg.model.start = dict(type='mmdfad.CountingStart', begin=1)
    samples = []
    for name in 'ab':
        runner = build_runner(tiny_cfg, work_dir=str(tmp_path / name), train_cfg__max_iters=3)
        watch = WatchStudent()
        runner.register_hook(watch)
        runner.train()
        assert len(runner.model.start.samples) == 1
        samples.append(runner.model.start.samples[0])
        images, more = samples[-1]
        assert images.shape == (4, 3, 16, 16)
        assert more.shape == (2, 3, 16, 16)
        assert not torch.equal(images[:2], more)
        assert not images.requires_grad
        assert torch.equal(watch.seen[1]['head.fc.bias'], torch.full((5,), float(images.mean())))
    for first, second in zip(*samples, strict=True):
        assert torch.equal(first, second)
