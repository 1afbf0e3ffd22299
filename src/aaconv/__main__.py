"""``python -m aaconv``."""

import sys

from aaconv.cli import main

sys.exit(main())
