"""The program: python -m fastdqn, or fastdqn; Ctrl-C ends it quietly from its first import on."""

import os
import sys


def main() -> int:
    """Run a command; returns the exit code, 130 where it was interrupted."""
    try:
        from fastdqn.system import standard_streams

        standard_streams.occupy()
        from fastdqn.cli import main as cli  # takes a while, in which Ctrl-C may come

        with standard_streams.checked_output() as outcome:
            outcome.code = cli.main()
        code = outcome.code
    except KeyboardInterrupt:
        code = 130
    # An interrupt that came within generated code (numba's, a dataclass's) would otherwise be
    # remembered by Python, caught or not, and end the process by its signal.
    exec("")
    if "fastdqn.system.threads" in sys.modules:  # else nothing of an environment has run
        sys.modules["fastdqn.system.threads"].end_despite_threads(code)
    return code


if __name__ == "__main__":
    from fastdqn.system.cwd_imports import take_off_path  # imports nothing that is not loaded yet

    take_off_path(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.exit(main())
