"""The documentation as a site.

The sources are the pages as they lie in the repository, so links work in both places.
"""

import os
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'Agg')

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

from mmdfad import __version__

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('docs', 'configs', 'examples')

project = 'mmdfad'
author = copyright = 'the mmdfad contributors'
release = version = __version__

root_doc = 'docs/index'
include_patterns = [
    'docs/*.md',
    'configs/*/README.md',
    'examples/*.ipynb',
    'README.md',
    'CHANGELOG.md',
    'CONTRIBUTING.md',
]
exclude_patterns = ['docs/_build', *(p.name for p in ROOT.iterdir() if p.is_dir() and p.name not in FOLDERS)]

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']
nb_execution_mode = 'off'  # a test runs the notebooks
myst_heading_anchors = 4
napoleon_use_ivar = True
highlight_language = 'none'
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_inherit_docstrings = False
autodoc_typehints = 'none'  # the docstrings have them

html_theme = 'furo'
html_title = f'mmdfad {release}'
templates_path = ['_templates']
html_additional_pages = {'index': 'index.html'}
html_show_sourcelink = False


def link_folders(app: Sphinx, doctree: nodes.document) -> None:
    """Let a link to a folder lead to its README, or be plain text if the folder has none."""
    page = Path(app.env.doc2path(app.env.docname))
    for link in list(doctree.findall(pending_xref)):
        folder = (page.parent / link['reftarget']).resolve()
        if not folder.is_dir():
            continue
        readme = f'{folder.relative_to(ROOT)}/README'
        if readme in app.env.found_docs:
            link.attributes.update(refdomain='doc', reftarget=readme, reftargetid=None)
        else:
            link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    """Connect the events."""
    app.connect('doctree-read', link_folders)
