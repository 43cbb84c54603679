"""Weights, signs, names and roles of objectives, and what a wrong list of them ends with."""

import pytest
import torch
from conftest import both_tasks
from distillers import assert_refused, build_distiller, multi_label, noise_for
from torch import Tensor

from mmdfad.models import Discrepancy, L1Discrepancy, Objective, UpsampleGenerator
from mmdfad.models.objectives import Objectives
from mmdfad.models.step import Output, Step
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError


@MODELS.register_module()
class Brightness(Objective):
    """Needs neither network."""

    name = 'brightness'
    roles = ()

    def forward(self, step: Step) -> Tensor:
        assert step.teacher is None
        assert step.student is None
        return step.images.mean() + 2


@MODELS.register_module()
class Certainty(Objective):
    """Needs the teacher."""

    name = 'certainty'
    roles = ('teacher',)

    def forward(self, step: Step) -> Tensor:
        return step.teacher.logits.max()


L1, MSE = dict(type='L1Discrepancy'), dict(type='MSEDiscrepancy')
BRIGHTNESS, CERTAINTY = dict(type='mmdfad.Brightness'), dict(type='mmdfad.Certainty')


def step_for(round_index: int = 0) -> Step:
    """One image with a mean of 1, and logits with an L1 distance of 3 and a squared one of 9."""
    output = Output(torch.zeros(1, 4)), Output(torch.full((1, 4), 3.0))
    return Step(torch.ones(1, 3, 2, 2), torch.zeros(1, 16), round_index, 0.0, *output)


def add_up(phase: str, cfgs: list[dict], round_index: int = 0) -> tuple[float, dict[str, float]]:
    objectives = Objectives(cfgs, phase, adversarial=phase == 'generation')
    total, log = objectives(step_for(round_index))
    assert total.item() == log[f'{phase}_loss'].item()
    return total.item(), {key: value.item() for key, value in log.items()}


# The sum


@pytest.mark.parametrize(('phase', 'sign'), [('imitation', 1), ('generation', -1)])
def test_discrepancies_are_minimised_in_imitation_and_maximised_in_generation(phase, sign):
    assert add_up(phase, [L1]) == (sign * 3, {f'{phase}_loss': sign * 3})
    assert add_up(phase, [dict(L1, weight=0.5)])[0] == sign * 1.5


def test_only_discrepancies_change_their_sign():
    class Distance(Objective):
        name = 'distance'

        def forward(self, step: Step) -> Tensor:
            return (step.student.logits - step.teacher.logits).abs().mean()

    assert Objectives([Distance()], 'generation', adversarial=True)(step_for())[0] == 3

    class Gap(Discrepancy):
        name = 'gap'

        def compare(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
            assert torch.equal(student_logits, step_for().student.logits)
            return (student_logits - teacher_logits).abs().max()

    assert Objectives([Gap()], 'generation', adversarial=True)(step_for())[0] == -3


def test_terms_are_added_with_their_weights_and_logged_without():
    total, log = add_up('imitation', [dict(L1, weight=2.0), dict(MSE, weight=0.1)])
    assert total == pytest.approx(2 * 3 + 0.1 * 9)
    assert log == dict(imitation_loss=total, imitation_l1=3, imitation_mse=9)


def test_two_objectives_of_one_class():
    total, log = add_up('imitation', [dict(L1, weight=2), MSE, dict(L1, weight=5), dict(L1, begin=1)])
    assert total == 2 * 3 + 9 + 5 * 3
    assert log == dict(imitation_loss=total, imitation_l1=3, imitation_mse=9, imitation_l1_2=3)
    _, log = add_up('imitation', [dict(L1, begin=1), dict(L1, weight=2)])
    assert log == dict(imitation_loss=6)
    _, log = add_up('imitation', [dict(L1, begin=1), dict(L1, weight=2), MSE])
    assert log.keys() == {'imitation_loss', 'imitation_l1_2', 'imitation_mse'}  # a name stays the same in all rounds


def test_objectives_begin_in_their_round():
    cfgs = [dict(L1, begin=2), dict(MSE, begin=4)]
    assert [add_up('imitation', cfgs, i)[0] for i in (2, 3, 4, 5)] == [3, 3, 12, 12]
    message = r'no objective of model.imitation counts in round 1; lower the `begin` of one, or .*train_cfg.phases'
    with pytest.raises(DistillError, match=message):
        add_up('imitation', cfgs, 1)


def test_no_objective_counts_in_an_empty_list():
    with pytest.raises(DistillError, match=r'no objective of model.generation counts in round 0'):
        add_up('generation', [])


# In the distiller


@both_tasks
def test_the_generation_loss_is_that_of_its_terms(tiny_cfg):
    noise = noise_for()
    plain, optim = build_distiller(tiny_cfg, model__generation=[L1])
    log = plain.generation_step(noise, optim['generator'])
    assert log.keys() == {'generation_loss'}
    base = log['generation_loss']
    assert base < 0
    priors = [dict(type='BNStatisticsPrior', weight=2.0), dict(type='BalancePrior', weight=0.5)]
    distiller, optim = build_distiller(tiny_cfg, model__generation=[L1, *priors])
    log = distiller.generation_step(noise, optim['generator'])
    assert list(log) == ['generation_loss', 'generation_l1', 'generation_bn_statistics', 'generation_balance']
    expected = base + 2 * log['generation_bn_statistics'] + 0.5 * log['generation_balance']
    torch.testing.assert_close(log['generation_loss'], expected)
    assert log['generation_l1'] == -base
    assert log['generation_bn_statistics'] > 0
    # The imitation phase has its own list.
    assert distiller.imitation_step(noise, optim['student']).keys() == {'imitation_loss', 'agreement'}


def test_weights_scale_the_update(tiny_cfg):
    tiny_cfg.optim_wrapper.student.optimizer = dict(type='SGD', lr=1.0)
    moves = []
    for imitation in ([L1], [dict(L1, weight=3.0)], [L1, dict(L1, weight=2.0)], [dict(L1, weight=0.0)]):
        distiller, optim = build_distiller(tiny_cfg, model__imitation=imitation)
        weight = distiller.student.model.head.fc.weight
        before = weight.detach().clone()
        distiller.imitation_step(noise_for(), optim['student'])
        moves.append(weight.detach() - before)
    assert moves[0].abs().max() > 0
    for scale, move in zip((3, 3, 0), moves[1:], strict=True):
        torch.testing.assert_close(move, scale * moves[0], rtol=1e-4, atol=1e-6)


def test_begin_counts_rounds_of_the_distiller(tiny_cfg):
    distiller, optim = build_distiller(tiny_cfg, model__generation=[L1, dict(type='BNStatisticsPrior', begin=3)])
    noise = noise_for()
    assert distiller.generation_step(noise, optim['generator'], round_index=2).keys() == {'generation_loss'}
    log = distiller.generation_step(noise, optim['generator'], round_index=3)
    assert log.keys() == {'generation_loss', 'generation_l1', 'generation_bn_statistics'}


@pytest.mark.parametrize(
    ('generation', 'run_by'),
    [
        ([BRIGHTNESS], []),
        ([CERTAINTY], ['teacher']),
        ([dict(type='mmdfad.Certainty', begin=2), dict(type='TotalVariationPrior')], []),
        ([L1], ['student', 'teacher']),
        ([CERTAINTY, L1], ['student', 'teacher']),
        ([CERTAINTY, dict(L1, begin=2)], ['teacher']),
    ],
)
def test_networks_run_only_where_an_objective_needs_them(tiny_cfg, generation, run_by):
    distiller, optim = build_distiller(tiny_cfg, model__generation=generation)
    ran = []
    for network in (distiller.teacher, distiller.student):
        network.logits.register_forward_hook(lambda *_, role=network.role: ran.append(role))
    before = {key: value.clone() for key, value in distiller.generator.state_dict().items()}
    distiller.generation_step(noise_for(), optim['generator'])
    assert sorted(ran) == run_by
    assert not torch.equal(distiller.generator.project.weight, before['project.weight'])


def test_objectives_see_the_round_the_progress_and_the_noise(tiny_cfg):
    seen = []

    class Watch(Objective):
        def forward(self, step: Step) -> Tensor:
            seen.append(step)
            return step.student.logits.mean()

    tiny_cfg.model.generation = [Watch()]
    tiny_cfg.model.imitation = [Watch()]
    distiller, optim = build_distiller(tiny_cfg)
    noise = noise_for()
    distiller.imitation_step(noise, optim['student'], 3, 0.5)
    distiller.generation_step(noise, optim['generator'], 4, 0.75)
    assert [(step.round, step.progress) for step in seen] == [(3, 0.5), (4, 0.75)]
    for step in seen:
        assert torch.equal(step.noise, noise)
        assert step.images.shape == (8, 3, 16, 16)
        assert step.student.logits.shape == (8, 5)
    assert not seen[0].images.requires_grad
    assert not seen[0].teacher.logits.requires_grad
    assert seen[1].images.requires_grad


# Unusable configs


@pytest.mark.parametrize('phase', ['imitation', 'generation'])
@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (dict(type='L1Discrepancy'), r"model.{} must be a list of objectives, but found {{'type': 'L1Discrepancy'}}"),
        ('L1Discrepancy', r"model.{} must be a list of objectives, but found 'L1Discrepancy'"),
        (None, r'model.{} must be a list of objectives, but found None'),
        (['L1Discrepancy'], r"model.{}\[0\] must be a dict with `type`, but found 'L1Discrepancy'"),
        ([L1, dict(weight=1)], r"model.{}\[1\] must have a `type`, but found the keys \['weight'\]"),
        (
            [L1, dict(type='UpsampleGenerator', noise_dim=2, image_size=4)],
            r'model.{}\[1\] must be a kind of Objective, but UpsampleGenerator is not',
        ),
        ([dict(type='ChannelSelection')], r'model.{}\[0\] must be a kind of Objective, but ChannelSelection is not'),
        (
            [dict(type='NoSuchLoss')],
            r'(?s)cannot build model.{}\[0\]=.*NoSuchLoss is not in the mmdfad.*mmdfad has: .*KLDiscrepancy, L1Discrep',
        ),
        ([dict(L1, wieght=1)], r"cannot build model.{}\[0\]=.*unexpected keyword argument 'wieght'"),
    ],
)
def test_wrong_lists_name_the_key(tiny_cfg, phase, value, message):
    tiny_cfg.model[phase] = value
    assert_refused(tiny_cfg, message.format(phase))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(weight='1'), "weight of L1Discrepancy must be a number, 0 or more, but found '1'"),
        (dict(weight=-1.0), 'weight of L1Discrepancy must be a number, 0 or more, but found -1.0'),
        (dict(weight=float('nan')), 'weight of L1Discrepancy must be a number, 0 or more, but found nan'),
        (dict(begin=1.5), 'begin of L1Discrepancy must be a whole number, 0 or more, but found 1.5'),
        (dict(begin=-1), 'begin of L1Discrepancy must be a whole number, 0 or more, but found -1'),
    ],
)
def test_bad_weights_and_rounds_are_named(settings, message):
    with pytest.raises(DistillError, match=message):
        L1Discrepancy(**settings)


@pytest.mark.parametrize('kind', ['BNStatisticsPrior', 'TotalVariationPrior', 'SpectrumPrior', 'mmdfad.Certainty'])
def test_the_student_cannot_imitate_a_prior(tiny_cfg, kind):
    name = kind.rpartition('.')[2]
    message = rf'model.imitation\[1\]={name} does not depend on the student, .*; it belongs in model.generation'
    assert_refused(tiny_cfg, message, model__imitation=[L1, dict(type=kind)])


@pytest.mark.parametrize(('key', 'kind'), [('generator', 'Generator'), ('start', 'Start')])
def test_other_parts_of_a_wrong_kind_are_named_too(tiny_cfg, key, kind):
    tiny_cfg.model[key] = dict(type='L1Discrepancy')
    assert_refused(tiny_cfg, rf'model.{key} must be a kind of {kind}, but L1Discrepancy is not')


def test_parts_may_be_built_already(tiny_cfg):
    objective = L1Discrepancy(weight=2)
    generator = UpsampleGenerator(noise_dim=16, image_size=16, width=8)
    tiny_cfg.model.imitation = [objective]
    tiny_cfg.model.generator = None
    distiller, _ = build_distiller(tiny_cfg, model__generator=generator)
    assert distiller.imitation[0].weight == 2
    assert distiller.generator.width == 8


# Multi-label models


def test_multi_label_models_are_distilled_by_their_logits(tiny_cfg):
    distiller, optim = build_distiller(tiny_cfg, **multi_label(model__generation=[L1, MSE]))
    assert distiller.teacher.logits.multi_label
    assert distiller.imitation_step(noise_for(4), optim['student'])['imitation_loss'] > 0
    assert distiller.generation_step(noise_for(4), optim['generator'])['generation_loss'] < 0


@pytest.mark.parametrize(
    ('phase', 'kind'),
    [
        ('imitation', 'KLDiscrepancy'),
        ('generation', 'KLDiscrepancy'),
        ('generation', 'OneHotPrior'),
        ('generation', 'BalancePrior'),
        ('generation', 'DrawnLabelPrior'),
    ],
)
def test_objectives_with_a_softmax_refuse_multi_label_models(tiny_cfg, phase, kind):
    message = (
        rf'model.{phase}\[1\]={kind} takes a softmax over classes, but the teacher is multi-label .*; use '
        'L1Discrepancy or MSEDiscrepancy'
    )
    assert_refused(tiny_cfg, message, **multi_label(**{f'model__{phase}': [L1, dict(type=kind)]}))
