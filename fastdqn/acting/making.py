"""Making: the calls that make environments, for whoever watches, while nobody can be asked yet."""

from types import FrameType

from fastdqn.acting.failures import EnvError, HungError, own_trace, trace_of


class Making:
    """Stands where Asking will, and is a context manager around such calls.

    what  is made, for messages
    An interrupted call becomes an EnvError.
    """

    def __init__(self, what: str):
        self._what, self._under_way = what, False

    def __enter__(self) -> "Making":
        self._under_way = True
        return self

    def __exit__(self, kind, error: BaseException | None, _) -> None:
        self._under_way = False
        if isinstance(error, HungError):
            raise self._told(str(error), own_trace(error)) from error

    def unanswered(self) -> dict[int, int]:
        """As Asking's, for all lanes together. Called from another thread."""
        return {-1: 0} if self._under_way else {}

    def give_up(self, lane: int, question: int, why: str) -> None:
        """Nothing is known of processes of lanes; who started them ends them."""

    def explain_hang(self, frames: list[FrameType], why: str) -> EnvError:
        """A call that does not come back, by the frames it is in, outermost first."""
        return self._told(why, trace_of(frames))

    def _told(self, why: str, trace: str) -> EnvError:
        told = EnvError(f"{self._what} hangs while it is made: {why}")
        told.trace = trace
        return told
