"""What to do with the student next, as commands to paste."""

import shlex
from pathlib import Path

from mmengine.config import Config

from mmdfad.utils.export import has_real_data

from .logs import TRAINS

_LOAD = dict(
    mmpretrain="""from mmpretrain import ImageClassificationInferencer

infer = ImageClassificationInferencer({0!r}, pretrained={1!r})
infer('image.jpg')""",
    mmseg="""from mmseg.apis import MMSegInferencer

infer = MMSegInferencer({0!r}, {1!r})
infer('image.jpg', show=False, out_dir='predictions')""",
)

_FOLDER = 'test_dataloader.dataset.data_root'


def next_commands(work_dir: Path, cfg: Config, done: bool, left: bool = False) -> list[dict[str, str]]:
    """The next commands, each with a ``title``, a ``note`` that may be empty, and its ``text``.

    Args:
        work_dir (Path): The run's work directory, as the user gives it.
        cfg (Config): The config of the run.
        done (bool): Whether the run has ended as it should.
        left (bool): Whether it has rounds left all the same, because a hook has ended it early. Defaults to False.
    """
    student = [str(work_dir / name) for name in ('student.py', 'student.pth')]
    run, scope = shlex.quote(str(run_config(work_dir))), cfg.get('default_scope')
    commands = []
    if all(Path(file).is_file() for file in student):
        plain = Config.fromfile(student[0])
        commands.append(
            dict(
                title='Test it on your data',
                note='' if has_real_data(plain) else 'First add test_dataloader and test_evaluator to student.py.',
                text=f'python tools/test.py {shlex.join(student)}{_data(plain)}',
            )
        )
        if has_real_data(cfg):
            text = f'python tools/test.py {run} {shlex.quote(student[1])} --agreement{_data(cfg)}'
            commands.append(dict(title='Compare it with the teacher on your data', note='', text=text))
        if scope in _LOAD:
            commands.append(dict(title=f'Use it in {scope}', note='', text=_LOAD[scope].format(*student)))
        text = f'python tools/export_onnx.py {shlex.join(student)}'
        commands.append(dict(title='Export it to ONNX', note='', text=text))
    resume = f'python tools/train.py {run} --work-dir {shlex.quote(str(work_dir))} --resume'
    if not done:
        return [dict(title='Continue the run', note='', text=resume), *commands]
    note = 'It helps only if param_scheduler has not taken the learning rates to 0.'
    more = '' if left else f' --cfg-options train_cfg.max_iters={2 * cfg.train_cfg.max_iters}'
    return [*commands, dict(title='Train longer', note=note, text=resume + more)]


def _data(cfg: Config) -> str:
    """The flag for other data, if the config has a folder to change."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    return '' if has_real_data(cfg) and 'data_root' not in dataset else f' --cfg-options {_FOLDER}=PATH'


def run_config(work_dir: Path) -> Path:
    """The run's config in its work directory: the newest one that mmengine has written."""
    found = [path for path in work_dir.glob('*.py') if path.name != 'student.py' and TRAINS.search(path.read_text())]
    found = found or [path for path in work_dir.glob('*/vis_data/config.py') if TRAINS.search(path.read_text())]
    return max(found, key=lambda path: path.stat().st_mtime, default=Path('CONFIG'))
