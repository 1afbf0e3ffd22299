"""Sphinx settings."""

project = "aaconv"
author = "The aaconv authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["_build", "jupyter_execute"]
autodoc_typehints = "none"
nb_execution_mode = "auto"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300  # seconds a cell
suppress_warnings = ["myst.xref_missing"]  # the README links to files of the repository
