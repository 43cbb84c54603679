import json

import pytest

from mmdfad.reports.logs import read_logs, require_run
from mmdfad.utils import DistillError

TRAINS = 'model = dict(train_cfg=dict())\ntrain_cfg = dict(max_iters=9)\n'


def write_session(work_dir, name, scalars=(), lines=(), config=TRAINS):
    folder = work_dir / name
    (folder / 'vis_data').mkdir(parents=True)
    (folder / 'vis_data/config.py').write_text(config)
    (folder / 'vis_data/scalars.json').write_text(''.join(f'{json.dumps(values)}\n' for values in scalars))
    (folder / f'{name}.log').write_text('\n'.join(lines))


def line(text, level='INFO', time='12:00:00'):
    return f'2026/01/31 {time} - mmengine - {level} - {text}'


def trained(number, loss, seconds=None):
    values = dict(imitation_loss=loss, time=0.5, iter=number, step=number)
    return values if seconds is None else values | {'seconds/imitation': seconds, 'seconds/total': seconds + 1}


def validated(step, top1):
    return {'accuracy/top1': top1, 'time': 0.1, 'data_time': 0.0, 'step': step}


def test_sessions_of_a_resumed_run_are_joined(tmp_path):
    write_session(tmp_path, '20260131_110000', [trained(1, 9.0)])  # an earlier run in the same folder
    first = [trained(2, 5.0, 4.0), validated(2, 50.0), trained(4, 4.0, 8.0), trained(6, 3.0, 12.0)]
    write_session(tmp_path, '20260131_120000', first, [line('begin', time='12:00:00')])
    write_session(tmp_path, '20260131_121500', [], [line('a mistake in a flag')])  # ended before its first round
    second = [trained(6, 2.0, 4.0), validated(6, 60.0), {'seconds/imitation': 5.0, 'seconds/total': 7.0, 'step': 6}]
    lines = [line('resumed epoch: 0, iter: 4'), line('end', time='12:40:00')]
    write_session(tmp_path, '20260131_123000', second, lines)
    write_session(tmp_path, '20260131_130000', [validated(0, 1.0)], config='model = dict(train_cfg=dict())\n')  # a test
    logs = read_logs(tmp_path)
    assert len(logs.sessions) == 2
    assert logs.series['imitation_loss'] == [(2, 5), (4, 4), (6, 2)]
    assert logs.metrics['accuracy/top1'] == [(2, 50), (6, 60)]
    assert logs.seconds == dict(imitation=17, total=20)
    assert logs.period == ('2026/01/31 12:00:00', '2026/01/31 12:40:00')


def test_validations_without_a_round_of_their_own(tmp_path):
    """With mmengine's default for the round of metrics."""
    write_session(tmp_path, '20260131_120000', [trained(5, 1.0), validated(0, 50.0)])
    assert read_logs(tmp_path).metrics['accuracy/top1'] == [(5, 50)]


def test_values_that_are_cut_off_or_not_numbers(tmp_path):
    write_session(tmp_path, '20260131_120000', [trained(1, 1.0) | dict(table=[1], flag=True)])
    with (tmp_path / '20260131_120000/vis_data/scalars.json').open('a') as file:
        file.write('{"imitation_loss": 2.0, "it')
    assert read_logs(tmp_path).series == dict(imitation_loss=[(1, 1)], time=[(1, 0.5)])


def test_what_the_log_says(tmp_path):
    lines = [
        'Name of parameter - Initialization information',
        line('Environment: {"machine": {"cpu": "x"}}'),
        line('Least squares: backbone.a, relative error 0.125'),
        line('Least squares: head.b, relative error 1.500'),
        line('Least squares: head.c keeps its weights'),
        line('Least squares: the student is not a narrower version, so only head.b is solved for'),
        line('Round 30: the generator has collapsed.\nLower its learning rate.', 'WARNING'),
        line('something is deprecated', 'WARNING'),
        line('/a/b.py - run - 12 - The run stopped: it diverged\nRound 3', 'ERROR'),
        line('Distillation report: a table', time='13:00:00'),
    ]
    write_session(tmp_path, '20260131_120000', [trained(1, 1.0)], lines)
    logs = read_logs(tmp_path)
    assert logs.environment == dict(machine=dict(cpu='x'))
    assert logs.start_errors == [('backbone.a', 0.125), ('head.b', 1.5)]
    assert logs.start_notes == ['the student is not a narrower version, so only head.b is solved for']
    assert logs.health == [(30, 'the generator has collapsed.\nLower its learning rate.')]
    assert logs.error == 'it diverged\nRound 3'
    assert logs.period == ('2026/01/31 12:00:00', '2026/01/31 12:00:00')


def test_a_folder_without_a_run(tmp_path):
    logs = read_logs(tmp_path)
    assert logs.period is logs.environment is logs.error is None
    assert logs.seconds == {}
    with pytest.raises(DistillError, match=r'found no run in .*: expected the work directory of tools/train.py'):
        require_run(tmp_path, logs)
