"""``python -m harvester.cli``: the command line where no console script is installed."""

import sys

from harvester.cli import main

sys.exit(main())
