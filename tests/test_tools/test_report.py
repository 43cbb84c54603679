"""tools/report.py as a user calls it."""

import json
import shutil

from conftest import run
from in_process import call_here
from test_cli import fails


def test_report_of_a_run_that_was_killed(tmp_path, tiny_cfg):
    """Without any report yet. The folder has moved since."""
    run(tiny_cfg, train_cfg__max_iters=2)
    shutil.move(tmp_path / 'run', tmp_path / 'moved')
    result = call_here('report.py', tmp_path / 'moved')
    assert result.returncode == 0, result.stderr
    assert 'complete with the student of round 2 of 2' in result.stdout
    assert f'report: {tmp_path}/moved/report.html' in result.stdout
    report = json.loads((tmp_path / 'moved/report.json').read_text())
    assert report['rounds'] == dict(done=2, planned=2)
    assert f'{tmp_path}/moved/student.pth' in report['commands'][0]['text']


def test_errors_are_one_line(tmp_path, tiny_cfg):
    fails(call_here('report.py', tmp_path), r'found no run in .*expected the work directory of tools/train.py')
    run(tiny_cfg, train_cfg__max_iters=1)
    missing = ['--cfg-options', 'model.teacher.checkpoint=nowhere.pth']
    fails(call_here('report.py', tmp_path / 'run', *missing), r"model.teacher.checkpoint='nowhere.pth' does not exist")
    for path in (tmp_path / 'run').glob('iter_*.pth'):
        path.unlink()
    (tmp_path / 'run/last_checkpoint').unlink()
    fails(call_here('report.py', tmp_path / 'run'), r'found no whole checkpoint \(iter_\*.pth\)')


def test_settings_override_those_of_the_run(tmp_path, tiny_cfg):
    run(tiny_cfg, train_cfg__max_iters=1)
    call_here('report.py', tmp_path / 'run', '--cfg-options', 'train_cfg.max_iters=9', check=True)
    assert json.loads((tmp_path / 'run/report.json').read_text())['status']['state'] == 'interrupted'
