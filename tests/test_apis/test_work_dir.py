import pytest

from mmdfad.apis import claimed_work_dir
from mmdfad.utils import DistillError


def test_two_runs_in_one_work_directory(tmp_path):
    with claimed_work_dir(tmp_path / 'run'):
        with (
            pytest.raises(DistillError, match=r'another run is writing to the work directory .*--work-dir'),
            claimed_work_dir(tmp_path / 'run'),
        ):
            pass
        with claimed_work_dir(tmp_path / 'other'):
            pass
    with claimed_work_dir(tmp_path / 'run'):
        pass


def test_work_directory_that_cannot_be_written_to(tmp_path):
    (tmp_path / 'file').write_text('')
    with (
        pytest.raises(DistillError, match=r'cannot write to the work directory .*--work-dir'),
        claimed_work_dir(tmp_path / 'file/run'),
    ):
        pass
