"""Runs end with a report, however they end."""

import json
import os
import re
import signal

import pytest
import torch
from conftest import REPORT, TINY_SEG, both_tasks, build_runner, keep_hooks, run
from mmengine.hooks import Hook

from mmdfad.apis import ensure_validation, make_report
from mmdfad.engine.hooks import PreemptionHook
from mmdfad.reports import hook as hook_module
from mmdfad.utils import DistillError

REPORTING = ('checkpoint', 'acceleration', 'export_student', 'report')


@pytest.fixture
def reporting_cfg(tiny_cfg):
    """The tiny distillation with checkpoints, an exported student and a report, and nothing else."""
    keep_hooks(tiny_cfg, *REPORTING)
    return tiny_cfg


class Raise(Hook):
    """Ends training with an error."""

    def __init__(self, round_index, error):
        self.round_index, self.error = round_index, error

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == self.round_index:
            raise self.error


class Ask(Hook):
    """Asks for an end as a cluster does."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def read(folder):
    return json.loads((folder / 'report.json').read_text()), (folder / 'report.html').read_text()


def log_of(folder):
    return max(folder.glob('*/*.log')).read_text()


def without_times(report):
    """Without what is measured in seconds."""
    for network in report['networks'].values():
        network.pop('latency')
    return report


@both_tasks
def test_a_run_ends_with_a_report(tiny_cfg, tmp_path):
    """With all default hooks."""
    tiny_cfg.default_hooks.report = REPORT
    runner = run(tiny_cfg, default_hooks__health__interval=2)
    report, page = read(tmp_path / 'run')
    assert report['status'] == dict(state='complete', reason=None)
    assert report['rounds'] == dict(done=6, planned=6)
    assert report['unit'] == ('pixels' if tiny_cfg.default_scope == 'mmseg' else 'images')
    for role in ('teacher', 'student'):
        network = getattr(runner.model, role)
        assert report['networks'][role]['params'] == sum(p.numel() for p in network.logits.parameters())
        assert report['networks'][role]['latency']['float32']['1'] > 0
    assert report['networks']['teacher']['flops'] > 2 * report['networks']['student']['flops'] > 0
    assert report['teacher'] == runner.model.teacher_record
    assert report['run']['seed'] == 0
    assert report['run']['environment_of'] == 'run'
    assert report['run']['environment']['versions']['torch'] == torch.__version__.partition('+')[0]
    assert sum(row['share'] for row in report['classes']['rows']) == pytest.approx(1, abs=1e-3)
    assert report['classes']['probes'] == 'inverted'  # not the images of training
    assert {name for name in report['series'] if not name.startswith('health')} >= {
        'imitation_loss',
        'generation_loss',
        'agreement',
        'student.lr',
        'generator.lr',
    }
    assert [number for number, _ in report['series']['imitation_loss']] == [1, 2, 3, 4, 5, 6]
    assert 'health/gap' in report['series']
    seconds = report['seconds']
    assert seconds['imitation'] > 0
    assert seconds['generation'] > 0
    assert sum(value for part, value in seconds.items() if part != 'total') == pytest.approx(seconds['total'], rel=1e-3)
    assert len(page) < 3e6
    assert 'data:image/' in page
    assert '<svg' in page


@both_tasks
def test_one_summary_at_the_end_of_the_log(reporting_cfg, tmp_path):
    run(reporting_cfg, train_cfg__max_iters=1)
    log = log_of(tmp_path / 'run')
    assert log.count('Distillation report: complete with the student of round 1 of 1') == 1
    rows = {name: re.search(rf'^ +{name} .*', log, re.MULTILINE)[0].split() for name in ('parameters', 'file size')}
    report, _ = read(tmp_path / 'run')
    sizes = [report['networks'][role]['params'] for role in ('teacher', 'student')]
    assert [int(cell.replace(',', '')) for cell in rows['parameters'][1:3]] == sizes
    assert float(rows['parameters'][3].rstrip('x')) == pytest.approx(sizes[0] / sizes[1], abs=0.01)
    for line in (f'files: {tmp_path}/run/student.{{py,pth}}', f'report: {tmp_path}/run/report.html', 'next: python'):
        assert line in log


@both_tasks
def test_the_tool_says_the_same(reporting_cfg, tmp_path):
    reporting_cfg.model.start = dict(type='mmdfad.LeastSquaresStart', images=8, batch_size=4)
    run(reporting_cfg)
    first, page = read(tmp_path / 'run')
    assert len(first['start']['errors']) > 8
    first_log = next((tmp_path / 'run').glob('*/*.log'))
    before = {path: path.read_bytes() for path in (tmp_path / 'run').rglob('*') if path.is_file()}
    table = make_report(tmp_path / 'run')
    assert 'complete with the student of round 6 of 6' in table
    again, page_again = read(tmp_path / 'run')
    assert without_times(again) == without_times(first)
    assert page_again.count('<img') == page.count('<img')
    # Nothing else has changed but the log of this process.
    after = {path: path.read_bytes() for path in (tmp_path / 'run').rglob('*') if path.is_file()}
    assert {path.name for path in after if before.get(path) != after[path]} <= {
        'report.json',
        'report.html',
        first_log.name,
    }


def test_the_tool_has_the_limits_of_the_run(reporting_cfg, tmp_path):
    reporting_cfg.default_hooks.report.update(predict=False, priority='LOWEST')
    run(reporting_cfg)
    make_report(tmp_path / 'run')
    assert read(tmp_path / 'run')[0]['prediction'] is None
    make_report(tmp_path / 'run', {'default_hooks.report.predict': True})
    assert read(tmp_path / 'run')[0]['prediction'] is not None


def test_averaged_weights(reporting_cfg, tmp_path):
    """The report is about the exported student, and the run keeps its own weights."""
    reporting_cfg.custom_hooks = [dict(type='EMAHook', momentum=0.01, update_buffers=True)]
    runner = run(reporting_cfg)
    first, _ = read(tmp_path / 'run')
    make_report(tmp_path / 'run')
    assert without_times(read(tmp_path / 'run')[0]) == without_times(first)
    state = torch.load(tmp_path / 'run/iter_6.pth', weights_only=False)['state_dict']
    own = runner.model.state_dict()
    assert any(not torch.equal(own[key], value) for key, value in state.items())


def test_early_stopping_by_the_prediction(reporting_cfg, tmp_path):
    """The config of docs/prediction.md. Its end is a good one: with a saved student, and everything in the report."""
    reporting_cfg.default_hooks.checkpoint.update(save_best='predicted_agreement', rule='greater', interval=100)
    stopping = dict(monitor='predicted_agreement', rule='greater', patience=2, min_delta=1)
    reporting_cfg.custom_hooks = [dict(type='EarlyStoppingHook', **stopping)]
    reporting_cfg.train_cfg.update(val_interval=1, val_begin=1)
    ensure_validation(reporting_cfg)
    run(reporting_cfg)
    report, _ = read(tmp_path / 'run')
    assert report['status'] == dict(state='complete', reason='A hook has ended the run early, after round 3 of 6.')
    assert report['rounds'] == dict(done=3, planned=6)
    assert report['prediction'] is not None
    assert report['commands'][0]['title'] == 'Test it on your data'
    assert (tmp_path / 'run/iter_3.pth').exists()
    assert torch.load(tmp_path / 'run/student.pth')['meta']['iter'] == 3
    values = [value for _, value in report['metrics']['predicted_agreement']]
    (best,) = (tmp_path / 'run').glob('best_predicted_agreement_iter_*.pth')
    assert int(best.stem.rpartition('_')[2]) == 1 + values.index(max(values))
    assert make_report(tmp_path / 'run')
    assert read(tmp_path / 'run')[0]['status'] == report['status']


def test_interruption_and_resume(reporting_cfg, tmp_path):
    runner = build_runner(reporting_cfg)
    runner.register_hook(Ask(), priority='VERY_HIGH')
    runner.register_hook(PreemptionHook())
    runner.train()
    report, page = read(tmp_path / 'run')
    assert report['status']['state'] == 'interrupted'
    assert report['rounds'] == dict(done=3, planned=6)
    assert report['prediction'] is None
    assert 'interrupted: 3 of 6 rounds' in page
    assert report['commands'][0]['title'] == 'Continue the run'
    assert re.search(r'^python tools/train.py \S+\.py --work-dir \S+ --resume$', report['commands'][0]['text'])

    run(reporting_cfg, resume=True)
    report, _ = read(tmp_path / 'run')
    assert report['status']['state'] == 'complete'
    assert report['run']['sessions'] == 2
    assert [number for number, _ in report['series']['imitation_loss']] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (DistillError('training is not healthy in round 4: the generator <b>has</b> collapsed'), 'training is not hea'),
        (KeyboardInterrupt(), 'KeyboardInterrupt: it was interrupted'),
        (RuntimeError('out of memory'), 'RuntimeError: out of memory'),
    ],
)
def test_an_error_ends_with_a_report_and_stays_an_error(reporting_cfg, tmp_path, error, reason):
    runner = build_runner(reporting_cfg)
    runner.register_hook(Raise(3, error), priority='LOW')  # before the checkpoint
    with pytest.raises(type(error)):
        runner.train()
    report, page = read(tmp_path / 'run')
    assert report['status']['state'] == 'failed'
    assert report['status']['reason'].startswith(reason)
    assert report['rounds']['done'] == 2
    assert '<b>has' not in page
    assert report['prediction'] is None  # that would take too long
    make_report(tmp_path / 'run')
    again, predicted = without_times(read(tmp_path / 'run')[0]), ('prediction', 'verdict', 'classes')
    assert again == without_times(report) | {key: again[key] for key in predicted}
    assert again['prediction']['probes']


def test_a_run_that_diverges(reporting_cfg, tmp_path):
    """Without a checkpoint yet, and with values that are not finite."""
    runner = build_runner(reporting_cfg)

    def broken(*args):
        return dict(imitation_loss=torch.tensor(float('nan')), agreement=torch.tensor(float('nan')))

    runner.model.imitation_step = broken
    with pytest.raises(DistillError, match='the student has diverged'):
        runner.train()
    report, _ = read(tmp_path / 'run')
    assert report['status']['state'] == 'failed'
    assert report['rounds']['done'] == 0
    assert 'imitation_loss' not in report['series']


def test_without_a_checkpoint_the_networks_are_those_of_the_moment(reporting_cfg, tmp_path):
    keep_hooks(reporting_cfg, 'report')
    reporting_cfg.default_hooks.checkpoint = None
    run(reporting_cfg, train_cfg__max_iters=2)
    report, _ = read(tmp_path / 'run')
    assert report['rounds']['done'] == 2
    assert [command['title'] for command in report['commands']] == ['Train longer']


def test_a_report_that_fails_is_a_warning(reporting_cfg, tmp_path, monkeypatch):
    def fail(*args):
        raise ValueError('no space')

    monkeypatch.setattr(hook_module, 'write_report', fail)
    run(reporting_cfg, train_cfg__max_iters=2)
    log = log_of(tmp_path / 'run')
    assert log.count('WARNING - Could not write the report (ValueError: no space)') == 1
    assert f'python tools/report.py {tmp_path}/run' in log
    assert (tmp_path / 'run/student.pth').exists()
    assert not (tmp_path / 'run/report.html').exists()


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_the_report_changes_nothing(tiny_cfg, tmp_path):
    keep_hooks(tiny_cfg, *REPORTING)
    reported = run(tiny_cfg, train_cfg__max_iters=2)
    tiny_cfg.default_hooks.pop('report')
    plain = run(tiny_cfg, train_cfg__max_iters=2, work_dir=str(tmp_path / 'other'))
    for name, value in plain.model.state_dict().items():
        assert value.equal(reported.model.state_dict()[name]), name
    modes = [[module.training for module in runner.model.student.modules()] for runner in (plain, reported)]
    assert modes[0] == modes[1]
