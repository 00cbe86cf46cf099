"""Deadlines for calls to a TFF worker, and the error of one that is lost."""

import collections
import math
import time

import grpc

# A worker that answers with these is gone, stopped, or another one by now.
_LOST = (
  grpc.StatusCode.CANCELLED,
  grpc.StatusCode.DEADLINE_EXCEEDED,
  grpc.StatusCode.UNAVAILABLE,
)


class WorkerLostError(grpc.RpcError):
  """One worker did not answer. TFF does not try again on this error."""

  def __init__(self, address: str, reason: str):
    super().__init__(f'{address}: {reason}')
    self.address = address


class _CallDetails(
  collections.namedtuple(
    '_CallDetails', ('method', 'timeout', 'metadata', 'credentials')
  ),
  grpc.ClientCallDetails,
):
  wait_for_ready = None
  compression = None


class Deadline(grpc.UnaryUnaryClientInterceptor):
  """Gives all calls of a computation one deadline.

  They raise `WorkerLostError` if the worker does not answer until then.
  """

  def __init__(self, address: str):
    self._address = address
    self._end = math.inf

  def start(self, seconds: float) -> None:
    """A computation begins."""
    self._end = time.monotonic() + seconds

  def intercept_unary_unary(self, continuation, client_call_details, request):
    left = max(self._end - time.monotonic(), 0.001)
    details = client_call_details
    call = continuation(
      _CallDetails(details.method, left, details.metadata, details.credentials),
      request,
    )
    error = call.exception()
    if isinstance(error, grpc.RpcError) and error.code() in _LOST:
      raise WorkerLostError(self._address, error.code().name)
    return call
