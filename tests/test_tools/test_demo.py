"""The demo, with one epoch instead of twenty and a few rounds instead of hundreds."""

import importlib.util
import json

import cv2
from conftest import ROOT
from mmengine.config import Config


def load_demo():
    spec = importlib.util.spec_from_file_location('demo', ROOT / 'tools/demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_demo_runs_end_to_end(tmp_path, monkeypatch):
    demo = load_demo()
    read = Config.fromfile

    def shortened(path, *args, **kwargs):
        cfg = read(path, *args, **kwargs)
        if 'teachers' in str(path):
            cfg.train_cfg.max_epochs, cfg.param_scheduler.T_max = 1, 1
        elif 'dfad' in str(path):
            cfg.train_cfg.update(max_iters=3)
            cfg.train_cfg.phases[0].steps = 1
        return cfg

    monkeypatch.setattr(demo.Config, 'fromfile', shortened)
    monkeypatch.setattr('sys.argv', ['demo.py', '--seed', '3', '--work-dir', str(tmp_path)])
    demo.main()
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report.keys() == {'teacher', 'student', 'agreement', 'seconds', 'seed'}
    assert report['seed'] == 3
    assert report['teacher']['params'] == 61706
    assert report['student']['params'] == 15738
    assert 0.8 < report['teacher']['top1'] < 1
    assert 0 < report['student']['top1'] < 1
    assert 0 <= report['agreement'] <= 1
    assert report['seconds'].keys() == {'teacher', 'distill', 'total'}
    assert cv2.imread(str(tmp_path / 'synthetic.png')) is not None
