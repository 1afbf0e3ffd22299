"""Sphinx settings."""

project = "aaconv"
author = project_copyright = "The aaconv authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "aaconv"
html_static_path = ["_static"]
html_css_files = ["page.css"]
myst_heading_anchors = 3  # so that pages can link to each other's sections
exclude_patterns = ["_build", "jupyter_execute", "output"]  # output: of commands, included by pages
autodoc_typehints = "none"
nb_execution_mode = "auto"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 900  # seconds a cell
