"""The page in a real browser."""

import json
import re
import shutil
import subprocess

import pytest
from conftest import REPORT, both_tasks, run

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
FLAGS = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--disable-sync',
    '--disable-background-networking',
    '--disable-component-update',
    '--no-first-run',
    '--hide-scrollbars',
    '--allow-file-access-from-files',
    '--enable-logging=stderr',
]
# Shows the page in a frame as wide as a phone, and writes down what it finds there.
HARNESS = """<iframe src="report.html" style="width: 390px; height: 800px; border: 0"></iframe><p id="found"></p>
<script>
onload = () => {
  const page = document.querySelector('iframe').contentDocument;
  const pictures = [...page.images];
  document.getElementById('found').textContent = JSON.stringify({
    width: page.documentElement.scrollWidth,
    pictures: pictures.length,
    missing: pictures.filter(picture => !picture.naturalWidth).length,
    charts: [...page.querySelectorAll('.chart svg')].filter(chart => chart.getBoundingClientRect().height > 60).length,
    text: page.body.innerText.length,
    colours: ['backgroundColor', 'color'].map(key => getComputedStyle(page.body)[key]),
  });
  console.log('harness done');
};
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason='needs chromium')
@both_tasks
def test_page_on_a_phone(tiny_cfg, tmp_path):
    tiny_cfg.default_hooks.report = REPORT
    tiny_cfg.model.start = dict(type='mmdfad.LeastSquaresStart', images=8, batch_size=4)
    run(tiny_cfg, default_hooks__health__interval=2)
    (tmp_path / 'run/harness.html').write_text(HARNESS)
    for scheme in ('light', 'dark'):
        assert_good_page(tmp_path, scheme)


def assert_good_page(folder, scheme):
    flags = [f'--blink-settings=preferredColorScheme={int(scheme == "light")}', f'--user-data-dir={folder}/profile']
    result = subprocess.run(
        [CHROMIUM, *FLAGS, *flags, '--dump-dom', f'file://{folder}/run/harness.html'],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = json.loads(re.search(r'<p id="found">(.*?)</p>', result.stdout)[1])
    behind, ink = (sum(map(int, re.findall(r'\d+', colour)[:3])) for colour in found['colours'])
    assert (behind > ink + 400) if scheme == 'light' else (ink > behind + 400)
    assert found['width'] == 390
    assert found['pictures'] >= 24
    assert found['missing'] == 0
    assert found['charts'] >= 6
    assert found['text'] > 1000
    messages = re.findall(r':CONSOLE[:(].*', result.stderr)
    assert [message for message in messages if 'harness done' not in message] == []
    assert any('harness done' in message for message in messages)
