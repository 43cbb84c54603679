"""mmdfad never writes over a file of somebody else."""

import pytest
from mmengine.config import Config

from mmdfad.utils import DistillError
from mmdfad.utils.export import student_files
from mmdfad.utils.generated import write_config


def test_a_config_is_replaced_while_nobody_has_changed_it(tmp_path):
    path = tmp_path / 'run.py'
    for value in (1, 2):
        write_config(path, f'a = {value}\n\n')
        assert Config.fromfile(path).a == value


@pytest.mark.parametrize('change', [lambda text: text.replace('1', '3'), lambda text: f'{text}b = 1\n'])
def test_a_changed_config_is_kept(tmp_path, change):
    path = tmp_path / 'run.py'
    write_config(path, 'a = 1')
    path.write_text(change(path.read_text()))
    before = path.read_text()
    with pytest.raises(DistillError, match=r'run.py would be overwritten, but it was changed .*--work-dir'):
        write_config(path, 'a = 2')
    assert path.read_text() == before


def test_files_of_others_are_kept(tmp_path):
    (tmp_path / 'student.py').write_text('model = None\n')
    with pytest.raises(DistillError, match=r'student.py would be overwritten, but mmdfad did not write it'):
        student_files(tmp_path)
    (tmp_path / 'student.py').unlink()
    (tmp_path / 'student.pth').write_bytes(b'mine')
    with pytest.raises(DistillError, match=r'student.pth would be overwritten, but without a student.py'):
        student_files(tmp_path)
    assert (tmp_path / 'student.pth').read_bytes() == b'mine'
    write_config(tmp_path / 'student.py', '')
    assert student_files(tmp_path) == (tmp_path / 'student.py', tmp_path / 'student.pth')
