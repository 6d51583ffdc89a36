"""`python -m m2fedsa`."""

import sys

from m2fedsa.cli import main

sys.exit(main())
