"""Sphinx settings."""

project = "aaconv"
author = "The aaconv authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_typehints = "none"
suppress_warnings = ["myst.xref_missing"]  # the README links to files of the repository
