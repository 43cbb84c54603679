"""The page itself."""

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser

import pytest
import torch
from conftest import TINY_SEG, both_tasks, keep_hooks, run

from mmdfad.evaluation.prediction import Prediction
from mmdfad.reports import inspection

EVIL = '<b onclick="x">&amp;</b>'
VOID = {'meta', 'link', 'img', 'path', 'use', 'rect', 'br'}


class Checker(HTMLParser):
    """Collects tags with their attributes, and finds tags that are not closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.wrong = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append((tag, self.getpos()))


@pytest.fixture
def evil_cfg(tiny_cfg, tmp_path):
    """A run whose classes have names that are markup."""
    checkpoint = torch.load(tiny_cfg.model.teacher.checkpoint, weights_only=False)
    checkpoint['meta']['dataset_meta']['classes'] = [f'{EVIL}{i}' for i in range(5)]
    tiny_cfg.model.teacher.checkpoint = str(tmp_path / 'evil.pth')
    torch.save(checkpoint, tiny_cfg.model.teacher.checkpoint)
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration', 'export_student', 'report')
    return tiny_cfg


@both_tasks
def test_names_are_escaped_and_nothing_is_loaded(evil_cfg, tmp_path):
    run(evil_cfg, work_dir=str(tmp_path / 'a<i>b'), train_cfg__max_iters=2)
    page = (tmp_path / 'a<i>b/report.html').read_text()
    checked = Checker(page)
    assert checked.open == checked.wrong == []
    assert EVIL not in page
    assert '&lt;b onclick=' in page
    assert not {tag for tag, _ in checked.tags} & {'script', 'b onclick', 'iframe', 'object', 'i>b'}
    sources = [
        (tag, value) for tag, attrs in checked.tags for key, value in attrs.items() if key.endswith(('src', 'href'))
    ]
    assert {value.partition(':')[0] for _, value in sources if not value.startswith('#')} == {'data'}
    assert not re.findall(r'url\((?!#)', page)
    assert '@import' not in page
    assert "default-src 'none'" in page
    report = json.loads((tmp_path / 'a<i>b/report.json').read_text())
    assert report['classes']['rows'][0]['name'].startswith(EVIL)


@pytest.mark.parametrize('value', [0.94, None])
def test_predictions_are_shown(evil_cfg, tmp_path, monkeypatch, value):
    prediction = Prediction(value, 0.94, 0.9, 0.97, 'in 9 <b>runs</b>, so', dict(leaves=0.5))
    monkeypatch.setattr(inspection, 'predict_agreement', lambda probes: prediction)
    run(evil_cfg, train_cfg__max_iters=1)
    page = (tmp_path / 'run/report.html').read_text()
    assert 'left: 90.00%; width: 7.00%' in page
    assert page.count('class="mark"') == (value is not None)
    assert 'In 9 &lt;b&gt;runs&lt;/b&gt;, so.' in page
    assert 'leaves 50.0%' in page
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['prediction'] == asdict(prediction)
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert re.search(r'same label, real images \(predicted\) +(94.0%, )?90.0% to 97.0%', log)


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_legend_of_a_segmentor(evil_cfg, tmp_path):
    run(evil_cfg, train_cfg__max_iters=1)
    page = (tmp_path / 'run/report.html').read_text()
    for i in range(5):
        assert f'background: #{i * 50:02x}00{255 - i * 50:02x}"></i>&lt;b' in page
