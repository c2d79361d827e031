"""Settings of Sphinx; `make docs` builds the pages into build/docs. Nothing is read from the network."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # generated.py

project = "LossAtlas"
author = "The LossAtlas authors"
copyright = "the LossAtlas authors, MIT licence"
release = version = version_of("lossatlas")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery", "generated"]
exclude_patterns = ["scripts/README.rst"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "LossAtlas"
html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}

autodoc_mock_imports = ["lightning", "transformers"]  # described, not needed
autodoc_typehints = "none"  # docstrings say more than Any
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Attributes", "params_style")]

sphinx_gallery_conf = {
    "examples_dirs": [str(HERE / "scripts")],
    "gallery_dirs": [str(HERE / "gallery")],
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "image_scrapers": ("matplotlib", "generated.shown"),
    "download_all_examples": False,
    "write_computation_times": False,
    "show_signature": False,
    "capture_repr": (),
}
suppress_warnings = ["config.cache"]  # settings of the gallery that cannot be pickled; nothing is lost
