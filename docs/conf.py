"""Sphinx's settings. ``python docs`` stages the sources first; see sitekit/__init__.py."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "tqlearn"
author = "the tqlearn authors"
copyright = f"{author}, Apache-2.0"
release = metadata.version("tqlearn")
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sitekit"]
exclude_patterns = ["files"]
smartquotes = False  # text stays as it was typed: notes hold commands with --options

# notebooks: the stored outputs, and of those the still picture first
nb_execution_mode = "off"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "image/png", 0)]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_dmath_double_inline = True
myst_heading_anchors = 4

# API: signatures as they are written
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
add_module_names = False
python_maximum_signature_line_length = 88

# pages: nothing comes from a network, formulas are MathML
html_theme = "pydata_sphinx_theme"
html_title = "tqlearn"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_copy_source = False
html_sidebars = {
    page: []
    for page in (
        *("index", "methods", "names", "architectures", "add_your_architecture", "glossary"),
        *("export", "instructors", "language_models", "post_training", "search", "workbench"),
    )
}
html_use_index = False
pygments_style = "xcode"
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "tqlearn"},
    "header_links_before_dropdown": 5,
    "show_nav_level": 1,
    "show_toc_level": 1,
    "pygments_light_style": "xcode",
    "pygments_dark_style": "github-dark",
    "navbar_align": "left",
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
