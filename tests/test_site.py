"""The documentation site builds without warnings, and its links work."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip('myst_nb', reason='`make docs` installs what the site needs')

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The built site."""
    out = tmp_path_factory.mktemp('site')
    flags = ['-q', '-W', '--keep-going', '--conf-dir', str(ROOT / 'docs'), '--doctree-dir', str(out / 'doctrees')]
    command = [sys.executable, '-m', 'sphinx', *flags, str(ROOT), str(out / 'html')]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return out / 'html'


def test_every_page_is_there_and_in_the_navigation(site):
    navigation = (site / 'docs/index.html').read_text()
    pages = [*(ROOT / 'docs').glob('*.md'), *(ROOT / 'configs').glob('*/README.md'), ROOT / 'README.md']
    for page in [path.relative_to(ROOT).with_suffix('.html') for path in pages]:
        assert (site / page).is_file()
        assert page.name == 'index.html' or re.search(rf'href="(?:\.\./|){page}|href="{page.name}"', navigation), page


def test_links_lead_to_files_of_the_site(site):
    for page in site.rglob('*.html'):
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if not re.match(r'\w+:', link) and not link.startswith('//'):
                assert (page.parent / link).exists(), (page, link)


def test_links_outside_of_the_documentation(site):
    methods = (site / 'docs/methods.html').read_text()
    assert 'href="../configs/dfad/README.html"' in methods  # a folder
    assert re.search(
        r'href="[\w./]*_downloads/\w+/ils_resnet32-resnet20_1xb64_cifar10.py"',
        (site / 'configs/ils/README.html').read_text(),
    )  # a file


def test_api_documents_the_public_parts(site):
    api = (site / 'docs/api.html').read_text()
    for name in ('apis.export_onnx', 'models.generators.DeadLeaves', 'models.starts.LeastSquaresStart'):
        assert f'id="mmdfad.{name}' in api
