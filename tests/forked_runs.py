"""Runs in processes of their own, which a server forks that has imported everything once."""

import os
import sys
from multiprocessing import get_context

from freqfusion.engine.command_line import argument_parser, main

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


def train_net(words, variables, log):
    """What ``train_net.py`` does; what it says goes to a file."""
    os.setsid()
    os.environ.update(variables)
    with open(log, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(main(argument_parser().parse_args(words)))


class Forked:
    """Such a run, with the interface of ``subprocess.Popen``, as far as tests use it."""

    def __init__(self, words, variables, log):
        self._log = log
        self._process = _CONTEXT.Process(target=train_net, args=(words, variables, log))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        """The exit code; unlike in ``Popen`` None when the time is over."""
        self._process.join(timeout)
        return self._process.exitcode

    def communicate(self):
        self.wait()
        return "", self._log.read_text(errors="replace")
