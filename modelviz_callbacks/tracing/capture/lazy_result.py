"""What a forward returned that computes only when somebody takes values out of it.

A generator (also an iterator of somebody's own, a coroutine, an asynchronous generator) has run
nothing when the forward returns. Another one that hands everything on stands in its place: while
the original runs the recording goes on, and while whoever takes the values works with them
nothing of ours is up.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from functools import partial
from inspect import isasyncgen, iscoroutine
from typing import Any

from modelviz_callbacks.tracing.capture.session import Capture
from modelviz_callbacks.tracing.capture.watched_method import watch_method

_UNUSED = (
    "The forward returned a {kind}, of which {count} value(s) were taken{end}: recorded is what "
    "ran until then."
)


def is_lazy(result: Any) -> bool:
    """Whether a result computes while values are taken out of it."""
    kind = type(result)
    if issubclass(kind, Generator) or isasyncgen(result) or iscoroutine(result):
        return True
    # One with more to it (a length, items, a file) is there already.
    has_more = any(hasattr(kind, name) for name in ("__len__", "__getitem__", "fileno"))
    return issubclass(kind, Iterator) and not has_more


def used_up(result: Any) -> Any:
    """All that a lazy result gives: a list of the values, or what a coroutine returned.

    Args:
        result: See `is_lazy`.

    Returns:
        ``result`` itself where it has to be awaited and an event loop is running already.
    """
    if not (iscoroutine(result) or isasyncgen(result)):
        return list(result)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_collected(result))
    return result


async def _collected(result: Any) -> Any:
    return await result if iscoroutine(result) else [value async for value in result]


class LazyResult:
    """Goes on with a recording while a lazy result runs.

    Attributes:
        stand_in: What to hand on in the place of the result.
        is_running: Whether the result computes right now.
        taken: How many values were taken out of it so far.
        has_begun: Whether anything of it has run.
    """

    def __init__(
        self,
        capture: Capture,
        result: Any,
        done: Callable[[Any, BaseException | None], None] | None = None,
    ) -> None:
        """Lets the recording rest until a value is taken.

        Args:
            capture: A recording whose code has returned.
            result: What it returned, see `is_lazy`.
            done: Called once when the recording is to end, with what a coroutine returned and what
                was raised.
        """
        self._capture: Capture | None = capture
        self._done = done
        self._kind = type(result).__name__
        self.is_running = self.has_begun = False
        self.taken = 0
        self._undo: Callable[[], None] = _nothing
        capture.rest()
        if isasyncgen(result):
            self.stand_in: Any = self._asynchronous(result)
        elif iscoroutine(result):
            self.stand_in = self._awaited(result)
        elif isinstance(result, Generator):
            self.stand_in = self._generator(result)
        else:
            self.stand_in = self._iterator(result)

    def _iterator(self, inner: Iterator[Any]) -> Iterator[Any]:
        """An iterator of somebody's own stays the one it is, since it may have more to it."""
        try:
            self._undo = watch_method(inner, "__next__", self._around_next)
        except TypeError:  # of a class that cannot be changed, as Python's own
            return self._iterated(inner)
        return inner

    def end(self, error: BaseException | None = None, why: str = "", result: Any = None) -> None:
        """Ends the recording; safe to call again.

        Args:
            error: What was raised.
            why: Why it ends before the result did; ``""``: it did not.
            result: What a coroutine returned.
        """
        self._undo()
        capture, self._capture = self._capture, None
        if capture is None:
            return
        if why:
            capture.remark(_UNUSED.format(kind=self._kind, count=self.taken, end=why))
        if self._done is not None:
            self._done(result, error)

    def drop(self) -> None:
        """Ends the recording without a word; the values are handed on as before."""
        self._undo()
        self._capture = None

    def _take(self, value: Any) -> Any:
        self.taken += 1
        if self._capture is not None:
            self._capture.add_output(value)
        return value

    def _run(self, step: Callable[[], Any]) -> Any:
        """Runs the result up to its next value."""
        capture = self._capture
        if capture is None:
            return step()
        if not capture.is_here():
            self.end(why=", some by another thread")
            return step()
        self.is_running = self.has_begun = True
        capture.go_on()
        try:
            return step()
        finally:
            self.is_running = False
            capture.rest()

    def _left(self) -> None:
        self.end(why=" before it was closed")

    # --- one for each kind of result. What is handed out is not held here, lest it lives longer.

    def _generator(self, inner: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = partial(next, inner)
        while True:
            try:
                made = [self._run(step)]
            except StopIteration as stop:
                self.end()
                return stop.value
            except BaseException as error:
                self.end(error)
                raise
            del step  # what it holds was sent in
            try:
                sent = yield self._take(made.pop())
            except GeneratorExit:
                self._close(inner.close)
                raise
            except BaseException as error:
                step = partial(inner.throw, error)
            else:
                step = partial(inner.send, sent)
                del sent

    def _close(self, close: Callable[[], Any]) -> None:
        try:
            self._run(close)
        finally:
            self._left()

    def _iterated(self, inner: Iterator[Any]) -> Iterator[Any]:
        step = partial(next, inner)
        while True:
            try:
                made = [self._run(step)]
            except StopIteration:
                self.end()
                return
            except BaseException as error:
                self.end(error)
                raise
            try:
                yield self._take(made.pop())
            except GeneratorExit:
                self._left()
                raise

    def _around_next(
        self, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return self._take(self._run(step))
        except BaseException as error:
            self.end(None if isinstance(error, StopIteration) else error)
            raise

    @types.coroutine
    def _driven(self, inner: Any) -> Generator[Any, Any, Any]:
        """Awaits something, and records while it runs."""
        waiting = inner.__await__()
        step: Callable[[], Any] = partial(next, waiting)
        while True:
            try:
                made = [self._run(step)]
            except StopIteration as stop:
                return stop.value
            del step
            try:
                sent = yield made.pop()
            except GeneratorExit:
                waiting.close()
                raise
            except BaseException as error:
                step = partial(waiting.throw, error)
            else:
                step = partial(waiting.send, sent) if sent is not None else partial(next, waiting)

    async def _awaited(self, inner: Coroutine[Any, Any, Any]) -> Any:
        try:
            result = await self._driven(inner)
        except BaseException as error:
            self.end(error)
            raise
        self.taken += 1
        self.end(result=result)
        return result

    async def _asynchronous(self, inner: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
        step = inner.__anext__()
        while True:
            try:
                made = [await self._driven(step)]
            except StopAsyncIteration:
                self.end()
                return
            except BaseException as error:
                self.end(error)
                raise
            del step  # what it holds was sent in
            try:
                sent = yield self._take(made.pop())
            except GeneratorExit:
                try:
                    await inner.aclose()
                finally:
                    self._left()
                raise
            except BaseException as error:
                step = inner.athrow(error)
            else:
                step = inner.asend(sent)
                del sent


def _nothing() -> None:
    pass
