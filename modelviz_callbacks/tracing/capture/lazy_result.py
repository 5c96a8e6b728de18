"""What a forward returned that computes only when somebody takes values out of it.

A generator (also a coroutine, an asynchronous generator, a ``map``) has run nothing when the
forward returns. Another one that hands everything on stands in its place: while the original runs
the recording goes on, and while whoever takes the values works with them nothing of ours is up. An
iterator of somebody's own class may have more to it: it stays, and its class is watched.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from functools import partial
from inspect import getattr_static, isasyncgen, iscoroutine
from typing import Any

from modelviz_callbacks.tracing.capture.lazy_values import ITERATORS
from modelviz_callbacks.tracing.capture.session import Capture
from modelviz_callbacks.tracing.capture.watched_method import watch_method

_UNUSED = (
    "The forward returned a {kind}, of which {count} value(s) were taken{end}: recorded is what "
    "ran until then."
)


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
        is_running: Whether the result computes right now.
        taken: How many values were taken out of it so far.
        has_begun: Whether anything of it has run.
    """

    def __init__(
        self,
        capture: Capture,
        done: Callable[[Any, BaseException | None], None] | None = None,
    ) -> None:
        """Lets the recording rest until a value is taken.

        Args:
            capture: A recording whose code has returned.
            done: Called once when the recording is to end, with what a coroutine returned and what
                was raised.
        """
        self._capture: Capture | None = capture
        self._done = done
        self._kind = ""
        self.is_running = self.has_begun = self._is_left = False
        self.taken = 0
        self._undo: Callable[[], None] = _nothing
        capture.rest()

    def stand_in(self, result: Any) -> Any:
        """What to hand on in the place of a result; nobody else holds it, so it ends when left.

        Args:
            result: What was recorded returned, see `is_lazy`.
        """
        kind = type(result)
        self._kind = kind.__name__
        made: Any
        if kind is types.AsyncGeneratorType:
            made = self._asynchronous(result)
        elif kind is types.CoroutineType:
            made = self._awaited(result)
        elif kind is types.GeneratorType:
            made = self._generator(result)
        elif any(kind is one for one in ITERATORS):
            return self._iterated(result)
        else:
            is_sent = getattr_static(kind, "__next__") is Generator.__next__
            step = "send" if is_sent else "__next__"
            try:
                self._undo = watch_method(result, step, self._around_next)
            except Exception:
                self.end(why=", whose class cannot be changed")
            return result
        made.__name__, made.__qualname__ = result.__name__, result.__qualname__
        return made

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
        why = " before it was closed" if self._is_left else why
        if why:
            capture.remark(_UNUSED.format(kind=self._kind, count=self.taken, end=why))
        if self._done is not None:
            self._done(result, error)

    def drop(self) -> None:
        """Ends the recording without a word; the values are handed on as before."""
        self._undo()
        self._capture = None

    def _take(self, value: Any) -> Any:
        if self._capture is not None and not self._is_left:
            self.taken += 1
            self._capture.add_output(value)
        return value

    def _run(self, step: Callable[[], Any]) -> Any:
        """Runs the result up to its next value."""
        capture = self._capture
        if capture is None or self._is_left or self.is_running:  # it may call itself
            return step()
        if not capture.is_here():
            self.end(why=", some by another thread")
            return step()
        self.is_running = self.has_begun = True
        try:
            capture.go_on()
        except Exception as error:
            capture.recorder.give_up(error)
        try:
            return step()
        finally:
            self.is_running = False
            try:
                capture.rest()
            except Exception as error:
                capture.recorder.give_up(error)

    def _over(self, error: BaseException | None = None) -> None:
        """It has come to its end; one that was left is ended by whoever comes by next."""
        if not self._is_left:
            self.end(error)

    def _leave(self) -> None:
        """Records nothing more of what is being closed.

        That may be the garbage collector, which comes at any time: while something of ours holds a
        lock, too.
        """
        self._is_left = True

    # --- one for each kind of result. What is handed out is not held here, lest it lives longer.

    def _generator(self, inner: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = partial(next, inner)
        while True:
            try:
                made = [self._run(step)]
            except StopIteration as stop:
                self._over()
                return stop.value
            except BaseException as error:
                self._over(error)
                raise
            del step  # what it holds was sent in
            try:
                sent = yield self._take(made.pop())
            except BaseException as error:
                if isinstance(error, GeneratorExit):
                    self._leave()
                step = partial(inner.throw, error)
            else:
                step = partial(inner.send, sent)
                del sent

    def _iterated(self, inner: Iterator[Any]) -> Iterator[Any]:
        step = partial(next, inner)
        while True:
            try:
                made = [self._run(step)]
            except StopIteration:
                self._over()
                return
            except BaseException as error:
                self._over(error)
                raise
            try:
                yield self._take(made.pop())
            except GeneratorExit:
                self._leave()
                raise

    def _around_next(
        self, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        run = partial(step, *args, **kwargs)
        if self.is_running:  # one that leaves values out calls itself
            return run()
        try:
            return self._take(self._run(run))
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
                self._leave()
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
            self._over(error)
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
                self._over()
                return
            except BaseException as error:
                self._over(error)
                raise
            del step  # what it holds was sent in
            try:
                sent = yield self._take(made.pop())
            except GeneratorExit:
                self._leave()
                await inner.aclose()
                raise
            except BaseException as error:
                step = inner.athrow(error)
            else:
                step = inner.asend(sent)
                del sent


def _nothing() -> None:
    pass
