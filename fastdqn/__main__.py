"""Entry point of `fastdqn` and `python -m fastdqn`. Ctrl-C ends it without a traceback."""

import os
import sys


def main() -> int:
    """Runs the command line. Returns the exit code, 130 after Ctrl-C."""
    try:
        from fastdqn.system import standard_streams

        standard_streams.occupy()
        from fastdqn.cli import main as cli  # slow, so Ctrl-C may come during it

        with standard_streams.checked_output() as outcome:
            outcome.code = cli.main()
        code = outcome.code
    except KeyboardInterrupt:
        code = 130
    # After an interrupt inside exec(), such as in Numba, Python would end the process by SIGINT
    # although the exception was caught. Another exec() resets that.
    exec("")
    if "fastdqn.system.python_threads" in sys.modules:  # else no environment has run
        sys.modules["fastdqn.system.python_threads"].end_despite_threads(code)
    return code


if __name__ == "__main__":
    from fastdqn.system.cwd_imports import take_off_path  # imports only what is loaded

    take_off_path(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.exit(main())
