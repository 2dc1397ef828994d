"""Callbacks that end a training at a step, as a user or a fault does."""

from __future__ import annotations

import os
import signal

from twotower.training.callbacks import Silent


class StopAt(Silent):
    """Asks to stop, as Ctrl-C does, once a step is reached."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


class DieAt(Silent):
    """Ends the training after a step, as a fault does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int) -> None:
        if step == self.step:
            raise ZeroDivisionError
