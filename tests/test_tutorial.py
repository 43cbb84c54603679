"""The tutorial runs, and its student is a good one."""

import re

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / 'examples/tutorial.ipynb'


@pytest.fixture(scope='module')
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_is_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_links_exist(notebook):
    text = '\n'.join(cell.source for cell in notebook.cells if cell.cell_type == 'markdown')
    links = re.findall(r'\]\(([^)#\s]+)\)', text)
    assert links
    assert all((NOTEBOOK.parent / link).is_file() for link in links)


# mmengine formats each config that it writes, which takes a third of the time.
FAST = 'from yapf.yapflib import yapf_api\nyapf_api.FormatCode = lambda text, **style: (text, True)'


@pytest.mark.slow
def test_runs(notebook, tmp_path):
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FAST))
    NotebookClient(notebook, timeout=300, resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    text = ''.join(output.get('text', '') for output in outputs)
    assert 'teacher: 61,706 parameters' in text
    assert 'student: 15,738 parameters' in text
    assert float(re.search(r'([\d.]+)% of 200 test digits are right', text)[1]) > 80
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 2
    assert {path.name for path in (tmp_path / 'work_dirs/tutorial/half').glob('*.*')} >= {'report.html', 'student.pth'}
