"""What can go wrong in a demo.

ProgramError, of scripts.programs
└── DemoError
"""

from scripts.programs import ProgramError


class DemoError(ProgramError):
    """The demo failed: a sentence for whoever runs it, and where there is one, the log that tells more."""
