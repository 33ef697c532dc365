"""``python -m npas``: the command line."""

from npas.cli import main

raise SystemExit(main())
