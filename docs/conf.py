"""Sphinx's configuration. The pages below docs/reference are written from the op table and the package before the build reads them.

    sphinx-build -W -j auto docs build/docs
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import api_pages
import compatibility
import docstrings
import op_pages

import treadle

project = "Treadle"
release = version = treadle.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "Treadle"
html_show_sphinx = False
exclude_patterns = ["differences.md"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
autodoc_use_type_comments = False
autodoc_member_order = "alphabetical"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
add_module_names = False
maximum_signature_line_length = 110


def write_reference(app: Any) -> None:
    op_pages.write(HERE / "reference")
    api_pages.write(HERE / "reference" / "api")
    compatibility.write(HERE / "reference")


def setup(app: Any) -> None:
    app.connect("builder-inited", write_reference)
    app.connect("autodoc-process-docstring", docstrings.process)
