import pytest

from mmdfad.engine.phases import Phase, parse_phases
from mmdfad.utils import DistillError


def test_phases_as_a_config_gives_them():
    phases = parse_phases(
        [
            dict(name='generation', end=3, student_bn_eval=True),
            dict(name='imitation', steps=5, begin=3),
            dict(name='imitation'),
        ]
    )
    assert phases == [
        Phase('generation', 1, 0, 3, dict(student_bn_eval=True)),
        Phase('imitation', 5, 3),
        Phase('imitation'),
    ]
    assert [phase.updates for phase in phases] == ['generator', 'student', 'student']


@pytest.mark.parametrize(('round_index', 'steps'), [(0, 0), (3, 0), (4, 5), (10, 35)])
def test_steps_before_a_round(round_index, steps):
    assert Phase('imitation', steps=5, begin=3).steps_before(round_index) == steps


def test_a_phase_runs_from_its_begin_and_not_in_its_end():
    phase = Phase('generation', steps=2, begin=1, end=3)
    assert [phase.steps_in(i) for i in range(5)] == [0, 2, 2, 0, 0]
    assert [phase.steps_before(i) for i in range(6)] == [0, 0, 2, 4, 4, 4]


def test_configs_stay_as_they_are():
    cfgs = [dict(name='generation', steps=2, student_bn_eval=True)]
    parse_phases(cfgs)
    assert cfgs == [dict(name='generation', steps=2, student_bn_eval=True)]


@pytest.mark.parametrize(
    ('cfgs', 'message'),
    [
        ([], r'train_cfg.phases must be a list of dicts, but found \[\]'),
        (dict(name='imitation'), 'train_cfg.phases must be a list of dicts, but found {'),
        (['imitation'], 'train_cfg.phases must be a list of dicts'),
        ([dict(steps=1)], r'phases\[0\].name must be one of imitation, generation, but found None'),
        ([dict(name='imitation'), dict(name='warm-up')], r"phases\[1\].name must be .*, but found 'warm-up'"),
        ([dict(name='imitation', steps=0)], r'phases\[0\].steps must be a whole number, 1 or more, but found 0'),
        ([dict(name='imitation', steps=True)], r'phases\[0\].steps must be a whole number'),
        ([dict(name='imitation', steps=2.0)], r'phases\[0\].steps must be a whole number'),
        ([dict(name='generation', begin=-1)], r'phases\[0\].begin must be a whole number, 0 or more, but found -1'),
        (
            [dict(name='generation', begin=3, end=3)],
            r'phases\[0\].end \(begin is 3\) must be a whole number, 4 or more, but found 3',
        ),
        ([dict(name='generation', end=0)], r'phases\[0\].end \(begin is 0\) must be a whole number, 1 or more'),
        (
            [dict(name='imitation', student_bn_eval=True)],
            r'phases\[0\].student_bn_eval is unknown; the imitation phase takes name, steps, begin, end$',
        ),
        (
            [dict(name='generation', bn_eval=True)],
            r'phases\[0\].bn_eval is unknown; the generation phase takes name, steps, begin, end, student_bn_eval$',
        ),
        ([dict(name='generation', progress=1)], r'phases\[0\].progress is unknown'),
    ],
)
def test_unusable_phases(cfgs, message):
    with pytest.raises(DistillError, match=message):
        parse_phases(cfgs)
