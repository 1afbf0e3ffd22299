"""How well-formed work may end: known without torch, so that the command line can tell."""


class Stopped(RuntimeError):
    """A signal came; the run is saved and goes on when started again."""


class Failed(RuntimeError):
    """The machine could not do the work: memory, disk, a process that died. The message says what would help."""
