import os

import pytest
import torch
from conftest import build_runner, run
from mmengine.config import Config

from mmdfad.apis import (
    find_resumable_checkpoint,
    load_student_weights,
    require_whole_checkpoint,
    set_resume,
)
from mmdfad.utils import DistillError


def touch(path, size=10):
    torch.save(torch.zeros(size), path)
    return path


def test_latest_whole_checkpoint(tmp_path):
    assert find_resumable_checkpoint(tmp_path) is None
    for number in (2, 10, 9):
        touch(tmp_path / f'iter_{number}.pth')
    assert find_resumable_checkpoint(tmp_path).endswith('iter_10.pth')
    (tmp_path / 'last_checkpoint').write_text('/moved/from/elsewhere/iter_9.pth')
    assert find_resumable_checkpoint(tmp_path) == str(tmp_path / 'iter_9.pth')
    (tmp_path / 'iter_9.pth').write_bytes((tmp_path / 'iter_9.pth').read_bytes()[:-30])
    assert find_resumable_checkpoint(tmp_path).endswith('iter_10.pth')
    for number in (2, 10):
        (tmp_path / f'iter_{number}.pth').write_bytes(b'x')
    assert find_resumable_checkpoint(tmp_path) is None


def test_one_wrong_bit_is_found(tmp_path):
    """torch itself does not check the sums."""
    path = touch(tmp_path / 'iter_1.pth', 1000)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(500)) + 100] ^= 1
    path.write_bytes(content)
    assert torch.load(path).count_nonzero() == 1
    assert find_resumable_checkpoint(tmp_path) is None
    with pytest.raises(DistillError, match=r'iter_1\.pth is corrupt, truncated or not a checkpoint'):
        require_whole_checkpoint(str(path))


def test_checkpoints_from_before_torch_1_6(tmp_path):
    """They are not zip files, and have no checksums."""
    path = tmp_path / 'old.pth'
    torch.save(dict(weight=torch.zeros(9)), path, _use_new_zipfile_serialization=False)
    require_whole_checkpoint(str(path))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DistillError, match=r'old\.pth is corrupt, truncated or not a checkpoint'):
        require_whole_checkpoint(str(path))
    torch.save(dict(function=print), path, _use_new_zipfile_serialization=False)
    with pytest.raises(DistillError, match='holds more than weights'):
        require_whole_checkpoint(str(path))


def test_set_resume(tmp_path, capsys):
    cfg = Config(dict(work_dir=str(tmp_path)))
    set_resume(cfg, 'auto')
    assert 'Nothing to resume' in capsys.readouterr().out
    assert 'resume' not in cfg
    path = str(touch(tmp_path / 'iter_3.pth'))
    for resume in ('auto', path):
        cfg = Config(dict(work_dir=str(tmp_path)))
        set_resume(cfg, resume)
        assert (cfg.resume, cfg.load_from) == (True, path)
    with pytest.raises(DistillError, match=r'no\.pth does not exist'):
        set_resume(cfg, str(tmp_path / 'no.pth'))


@pytest.mark.parametrize('resume', ['auto', 'iter_2.pth'])
def test_a_run_resumes_with_one_safe_read(tiny_cfg, tmp_path, monkeypatch, resume):
    tiny_cfg.default_hooks.pop('report')  # it reads the checkpoint that the run ends with
    run(tiny_cfg, train_cfg__max_iters=2)
    load, reads = torch.load, []

    def counted(file, *args, **kwargs):
        content = load(file, *args, **kwargs)
        if 'optimizer' in content:
            reads.append(os.environ.get('TORCH_FORCE_WEIGHTS_ONLY_LOAD'))
        return content

    monkeypatch.setattr(torch, 'load', counted)
    set_resume(tiny_cfg, resume if resume == 'auto' else str(tmp_path / 'run' / resume))
    resumed = run(tiny_cfg, train_cfg__max_iters=3)
    assert resumed.iter == 3
    assert reads == ['1']


def test_names_of_a_model_that_was_in_a_wrapper(tmp_path):
    torch.save(dict(state_dict={'module.weight': torch.ones(2, 2), 'module.bias': torch.ones(2)}), tmp_path / 'x.pth')
    model = torch.nn.Linear(2, 2)
    load_student_weights(model, str(tmp_path / 'x.pth'))
    assert torch.equal(model.weight, torch.ones(2, 2))


def test_student_in_a_training_checkpoint(tiny_cfg, tmp_path):
    runner = run(tiny_cfg, train_cfg__max_iters=1)
    student = build_runner(tiny_cfg).model.student.model
    meta = load_student_weights(student, str(tmp_path / 'run/iter_1.pth'))
    assert meta['iter'] == 1
    for name, value in student.state_dict().items():
        assert torch.equal(value, runner.model.student.model.state_dict()[name]), name


def test_no_checkpoint_of_an_earlier_run_in_the_same_folder(tmp_path):
    """If the newest is damaged, the run before it is not taken for this one."""
    for number, run_id in ((10, 'earlier'), (3, 'ours'), (5, 'ours')):
        torch.save(dict(state_dict={}, meta=dict(run=run_id)), tmp_path / f'iter_{number}.pth')
    (tmp_path / 'run.json').write_text('{"id": "ours", "validated": 0}')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_5.pth'))
    assert find_resumable_checkpoint(tmp_path).endswith('iter_5.pth')
    (tmp_path / 'iter_5.pth').write_bytes((tmp_path / 'iter_5.pth').read_bytes()[:-30])
    assert find_resumable_checkpoint(tmp_path).endswith('iter_3.pth')
    (tmp_path / 'run.json').write_text('damaged')
    assert find_resumable_checkpoint(tmp_path).endswith('iter_10.pth')
