"""Ctrl-C between steps, never inside one, where some layers of a cache have moved on and some have not."""
import signal
import threading


class DeferredInterrupt:
    """``with`` it, a KeyboardInterrupt is held back; `deliver` raises it once all is in order.

    Only Python's own SIGINT handler is held back, and only in the main thread, where it runs; a handler that
    the program installed stays as it is.
    """

    def __init__(self):
        self.pressed, self._holds = False, False

    def __enter__(self) -> "DeferredInterrupt":
        in_main = threading.current_thread() is threading.main_thread()
        self._holds = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._holds:
            signal.signal(signal.SIGINT, self._hold)
        return self

    def __exit__(self, *_exception) -> None:
        if self._holds:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _hold(self, _number, _frame) -> None:
        self.pressed = True

    def deliver(self) -> None:
        """Raises the KeyboardInterrupt that was held back, if there was one."""
        if self.pressed:
            self.pressed = False
            raise KeyboardInterrupt
