"""The command ``mmdfad``: the tools of the repository, from anywhere."""

import argparse
import ast
import runpy
import sys
from pathlib import Path

TOOLS = Path(__file__).parent / '.mim/tools'


def list_tools() -> dict[str, Path]:
    """The tools by the names that the command has for them: ``export-onnx`` for ``export_onnx.py``."""
    return {path.stem.replace('_', '-'): path for path in sorted(TOOLS.glob('*.py'))}


def main() -> None:
    """Run a tool with the arguments that follow its name."""
    tools = list_tools()
    summaries = {name: ast.get_docstring(ast.parse(path.read_text())) for name, path in tools.items()}
    parser = argparse.ArgumentParser(
        prog='mmdfad',
        description='\n'.join(f'  {name:16}{str(text).splitlines()[0]}' for name, text in summaries.items()),
        epilog='mmdfad TOOL --help shows the arguments of a tool.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='mmdfad TOOL ...',
    )
    parser.add_argument('tool', choices=tools, metavar='TOOL', help='one of these tools')
    args = parser.parse_args(sys.argv[1:2])
    sys.argv = [str(tools[args.tool]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name='__main__')
