"""Which tracebacks of the checkpoint library stay out of the log."""

import asyncio
import sys

import tensorstore

from softvq_jax.train import save_errors


def report_of(callback, monkeypatch):
    """What is reported of the exception that a callback of TensorStore raises."""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(str(unraisable.exc_value)))
    save_errors.drop_tracebacks()
    save_errors.drop_tracebacks()
    promise, future = tensorstore.Promise.new()
    future.add_done_callback(callback)
    promise.set_result(5)
    assert future.result() == 5
    return reported


def test_only_calls_of_a_closed_loop_are_dropped(monkeypatch):
    loop = asyncio.new_event_loop()
    loop.close()

    def own(_):
        raise ValueError("mine")

    def through_own_code(_):
        loop.call_soon_threadsafe(print)

    assert report_of(loop.call_soon_threadsafe, monkeypatch) == []
    assert report_of(own, monkeypatch) == ["mine"]
    assert report_of(through_own_code, monkeypatch) == ["Event loop is closed"]
