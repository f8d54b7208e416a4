"""What every test shares: the same examples each time in CI, and a Ctrl-C that means what it does in a terminal."""

import os
import signal

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# A shell ignores SIGINT for its background jobs, and whoever it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
