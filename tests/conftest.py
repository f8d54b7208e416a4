"""For all tests: Ctrl-C means what it means in a terminal, also where the run was started in the background."""

import signal

# A shell ignores SIGINT for its background jobs, and whoever it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
