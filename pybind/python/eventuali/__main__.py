"""The command line: `python -m eventuali`, also installed as `eventuali`."""

import sys

from eventuali._command import main

if __name__ == "__main__":
    sys.exit(main())
