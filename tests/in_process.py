"""Tools without a process of their own, which would import everything again for some seconds."""

import contextlib
import io
import os
import runpy
import subprocess
import traceback
from pathlib import Path
from unittest.mock import patch

from conftest import FEW_PROBES, ROOT
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer


def call_here(tool: str, *arguments, cwd: Path = ROOT, check: bool = False) -> subprocess.CompletedProcess:
    """Run a tool as a process would: its own arguments, folder, environment, and output.

    A validation on generated images takes fewer of them.

    Args:
        tool: Its path below ``tools``.
        arguments: What the command line would have.
        cwd: The folder to run it in.
        check: Fail if the tool does.
    """
    path = str(ROOT / 'tools' / tool)
    out, err, code = io.StringIO(), io.StringIO(), 0
    # A logger, or a message hub, of a run in the same second has the same name.
    for managed in (MMLogger, MessageHub, Visualizer, *Visualizer.__subclasses__(), DefaultScope):
        managed._instance_dict.clear()
    with (
        patch('sys.argv', [path, *map(str, arguments)]),
        patch.dict(os.environ),
        patch('mmdfad.apis.validation.PROBE_SIZE', 32),
        patch.multiple('mmdfad.models.probes', **FEW_PROBES),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            runpy.run_path(path, run_name='__main__')
        except SystemExit as end:
            if isinstance(end.code, str):  # as Python itself ends
                err.write(f'{end.code}\n')
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            err.write(traceback.format_exc())
            code = 1
    assert code == 0 or not check, err.getvalue()
    return subprocess.CompletedProcess([path, *arguments], code, out.getvalue(), err.getvalue())
