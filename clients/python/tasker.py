"""Workers in Python for tasker: claim steps from queues, run handlers, report.

    worker = Worker("dbname=shop", queues=["payments"], concurrency=4, batch=10)

    @worker.handler("charge")
    def charge(step: Step):
        return {"charged": step.context["amount"]}

    worker.run()

Needs psycopg 3 (Debian: python3-psycopg), nothing else. A worker has three connections (claims, reports, heartbeats),
and one for each thread that has run a transactional handler. It works through pgbouncer in transaction mode.

Threads: one claims while there is room and the server has no more to give with a report; `concurrency` of them run
handlers; one reports what they finished, as many in a call as there are, and claims the next in the same call; one
extends the leases. What they share is guarded by Worker._changed.
"""
from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import socket
import threading
import time
import traceback
from collections import deque
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

__all__ = ["Worker", "Step", "DoNotRetry", "RetryAfter", "LeaseLost"]

log = logging.getLogger("tasker")

Connection = psycopg.Connection[Any]
Handler = Callable[..., Any]
Duration = Union[float, int, timedelta]
T = TypeVar("T")

STALE_LEASE = "TK420"
UNACCEPTABLE = re.compile("22|54|TK400")  # results that the server does not take, now or later
# Says a standby: another connection may be to the primary. Switched off, or a copy: somebody may change that.
NOT_NOW = ("25006", "TK601", "TK602")
WAIT = timedelta(seconds=1)
UNKNOWN_STEP_DELAY = timedelta(seconds=10)  # stays away a step that this worker has no handler for
LONGEST_DELAY = timedelta(days=30)  # that the server takes
LONGEST_TEXT = 4000

# How long is left is the server's clock's to say: this machine's may be wrong.
COLUMNS = """c.task_id, c.step_id, c.lease, c.name, c.queue, c.attempt, c.max_attempts, c.input, c.idempotency_key,
    c.checkpoint, c.deadline, c.traceparent, extract(epoch FROM c.lease_expires_at - clock_timestamp())::float8,
    extract(epoch FROM c.deadline - clock_timestamp())::float8"""
CLAIM = f"""SELECT {COLUMNS}
    FROM tasker.claim_steps(queues => %s::text[], worker => %s, max_steps => %s, lease => %s, wait => %s) AS c"""
COMPLETE_MANY = f"""SELECT c.outcome, {COLUMNS}
    FROM tasker.complete_steps(task_ids => %s::bigint[], step_ids => %s::int[], leases => %s::uuid[],
        results => %s::text[]::jsonb[], queues => %s::text[], worker => %s, max_steps => %s, lease => %s) AS c"""
COMPLETE = "SELECT tasker.complete_step(%s, %s, %s, results => %s)"
FAIL = "SELECT tasker.fail_step(%s, %s, %s, error => %s, retryable => %s, retry_after => %s)"
HEARTBEAT = """SELECT extract(epoch FROM
    tasker.heartbeat(%s, %s, %s, extend => %s, checkpoint => %s) - clock_timestamp())::float8"""
RELEASE = "SELECT tasker.release_step(%s, %s, %s, delay => %s)"
REGISTER = "SELECT tasker.register_worker(worker => %s, queues => %s::text[], metadata => %s)"
REGISTER_EVERY = 60.0


class DoNotRetry(Exception):
    """Raised by a handler: the step fails for good, whatever its policy says."""


class RetryAfter(Exception):
    """Raised by a handler: the step fails, and is tried again after `seconds`."""

    def __init__(self, seconds: Duration, message: str = "") -> None:
        self.delay = min(max(as_interval(seconds), timedelta(0)), LONGEST_DELAY)
        super().__init__(message or f"to be tried again after {self.delay.total_seconds():g} s")


class LeaseLost(Exception):
    """The step is no longer this worker's: cancelled, or given to another. Let it pass through the handler."""


class _Stopped(Exception):
    """The worker ends; what was to be done is not worth waiting for."""


def as_interval(value: Duration) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def sqlstate(error: BaseException) -> Optional[str]:
    return error.diag.sqlstate if isinstance(error, psycopg.Error) else None


def passing(error: BaseException) -> bool:
    """Whether the same call may well succeed on another connection, later."""
    state = sqlstate(error) or ""
    if isinstance(error, psycopg.Error) and not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return state in NOT_NOW
    # A limit of the server's (54...) will not move: results too long, too deep.
    return not state.startswith("54")


def clean(text: str) -> str:
    """Text as the server takes it: no NUL, no half of a surrogate pair, not endless."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:LONGEST_TEXT]


def describe(error: BaseException) -> str:
    """The error as JSON, for fail_step."""
    about: Dict[str, Any] = {
        "message": clean(str(error)) or type(error).__name__, "type": type(error).__name__,
        "context": clean("".join(traceback.format_exception(type(error), error, error.__traceback__))[-LONGEST_TEXT:]),
    }
    if isinstance(error, psycopg.Error):
        about.update(sqlstate=sqlstate(error), detail=clean(error.diag.message_detail or ""))
    return json.dumps(about)


class Step:
    """One attempt of one step, as its handler sees it."""

    def __init__(self, worker: "Worker", row: Sequence[Any]) -> None:
        self.input: Dict[str, Any]  # {"task": {…}, "step": {…}, "parents": {name: results}}
        self.idempotency_key: str  # the same for all attempts: give it to payment services and the like
        self.saved: Any  # what the last checkpoint() kept, of this attempt or one before
        self.deadline: Optional[datetime]  # when the step's timeout ends this attempt, by the server's clock
        self.traceparent: str  # the W3C trace context to go on in
        (self.task_id, self.id, self.lease, self.name, self.queue, self.attempt, self.max_attempts, self.input,
         self.idempotency_key, self.saved, self.deadline, self.traceparent, seconds, left) = row
        self.task: Dict[str, Any] = self.input["task"]  # id, name, namespace, version, context, correlation_id, …
        self.context: Any = self.task.get("context")  # what create_task was given
        self.parents: Dict[str, Any] = self.input.get("parents") or {}  # their results, by name
        self._key: Tuple[int, int, UUID] = (self.task_id, self.id, self.lease)
        self._worker = worker
        self._state = "waiting"  # then running, then reporting
        self._lost = threading.Event()
        self._end = None if left is None else time.monotonic() + left
        self._extended(seconds)

    @property
    def lost(self) -> bool:
        """The step is no longer ours: a long handler may look, and stop."""
        return self._lost.is_set()

    @property
    def time_left(self) -> Optional[float]:
        """Seconds until the deadline, whatever this machine's clock says; None without one."""
        return None if self._end is None else self._end - time.monotonic()

    def heartbeat(self) -> None:
        """Extends the lease (the worker does so by itself). Raises LeaseLost."""
        self._worker._heartbeat(self, None)

    def checkpoint(self, value: Any) -> None:
        """Keeps a value for the next attempt, and extends the lease. Raises LeaseLost."""
        self._worker._heartbeat(self, json.dumps(value, allow_nan=False))
        self.saved = value

    def _extended(self, seconds: float) -> None:
        self._due = time.monotonic() + max(seconds / 3, 0.05)

    def __str__(self) -> str:
        return f'step {self.task_id}.{self.id} "{self.name}", attempt {self.attempt}'


class _Report(NamedTuple):
    """What became of a step: a call that is still to be made, if there is one."""
    step: Step
    call: str = ""
    arguments: Tuple[Any, ...] = ()


class _Link:
    """A connection that comes back: opened when needed, again after a failure."""

    def __init__(self, worker: "Worker", patient: bool) -> None:
        self._worker = worker
        self._patient = patient  # goes on trying while the worker drains
        self._lock = threading.Lock()
        self._connection: Optional[Connection] = None

    def call(self, work: Callable[[Connection], T]) -> T:
        """work(connection), until no failure of the connection or the server interferes."""
        with self._lock:
            delay = 0.05
            while True:
                try:
                    if self._connection is None:
                        self._connection = self._worker._connect()
                    return work(self._connection)
                except (psycopg.Error, OSError) as error:
                    if not passing(error):
                        raise
                    self._drop()
                    log.warning("connection failed, next try in %.1f s: %s", delay, str(error).strip())
                    if self._worker._pause(delay, self._patient):
                        raise _Stopped() from error
                    delay = min(delay * random.uniform(1.5, 2.5), 5.0)

    def query(self, sql: str, arguments: Sequence[Any]) -> List[Tuple[Any, ...]]:
        """The rows of one statement, whatever rows the program's own connections make, and prepare."""
        return self.call(lambda connection: connection.cursor(row_factory=tuple_row).execute(
            sql, arguments, prepare=False).fetchall())

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def close(self) -> None:
        # Of a thread that did not end in time: the process's end closes it.
        if self._lock.acquire(timeout=0.1):
            self._drop()
            self._lock.release()


class Worker:
    """Claims steps from queues and runs their handlers.

    database     connection string, or a callable that returns a new psycopg connection
    queues       names of the queues to claim from
    concurrency  how many handlers run at once, each in its thread
    batch        the most steps to claim in one call
    lease        seconds or timedelta; None: as the step's definition says
    name         shown as claimed_by; default host:pid
    drain        seconds or timedelta that run() gives its handlers after SIGTERM or SIGINT
    metadata     what tasker.worker_status shows of the program, beside its host, pid and the like
    """

    def __init__(self, database: Union[str, Callable[[], Connection]], queues: Sequence[str], *, concurrency: int = 1,
                 batch: int = 1, lease: Optional[Duration] = None, name: Optional[str] = None,
                 drain: Duration = 30, metadata: Optional[Dict[str, Any]] = None) -> None:
        if isinstance(queues, str) or not queues:
            raise ValueError("queues must be a list of at least one name")
        if concurrency < 1 or batch < 1:
            raise ValueError("concurrency and batch must be at least 1")
        self.queues = list(queues)
        self.concurrency = concurrency
        self.batch = batch
        self.lease = None if lease is None else as_interval(lease)
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.metadata = dict({"client": "python", "host": socket.gethostname(), "pid": os.getpid(),
                              "concurrency": concurrency, "batch": batch}, **(metadata or {}))
        self._database = database
        self._drain = as_interval(drain).total_seconds()
        self._handlers: Dict[Tuple[Optional[str], Optional[str]], Tuple[Handler, bool]] = {}
        self._changed = threading.Condition()
        self._capacity = max(concurrency, batch)
        self._held: Dict[UUID, Step] = {}  # claimed and not yet reported
        self._reserved = 0  # asked for by a claim that is under way
        self._waiting: Deque[Step] = deque()
        self._reports: Deque[_Report] = deque()
        self._stopping = False
        self._finished = False  # everything reported: the other threads may end
        self._deadline = float("inf")
        self._failure: Optional[BaseException] = None
        self._links = [_Link(self, patient) for patient in (False, True, True)]
        self._claims, self._completions, self._heartbeats = self._links
        self._threads: List[threading.Thread] = []

    # ---- what a program calls -------------------------------------------------

    def handler(self, name: Optional[str] = None, *, queue: Optional[str] = None,
                transactional: bool = False) -> Callable[[Handler], Handler]:
        """Registers a handler for the steps of a name, or, without one, for the others of a queue.

        It is called with the Step, and returns what the step's results shall be (anything that is JSON, or None).
        A transactional one is called with the Step and a connection: what it writes there and the step's completion
        are one transaction. Its connection must be to the tasker database.
        """
        if name is None and queue is None:
            raise ValueError("a handler needs the name of a step or of a queue")

        def register(function: Handler) -> Handler:
            if (queue, name) in self._handlers:
                raise ValueError(f"there is a handler for step {name}, queue {queue} already")
            self._handlers[queue, name] = function, transactional
            return function
        return register

    def run(self) -> None:
        """Works until SIGTERM, SIGINT or stop(); then finishes what runs and gives back the rest.

        A second signal ends the process at once. Raises what made work impossible: a permission, a missing extension.
        """
        signalled: List[int] = []
        before: Dict[int, Any] = {}

        def on_signal(number: int, frame: Any) -> None:
            # No lock may be taken here: this thread may have it.
            signalled.append(number)
            signal.signal(number, signal.SIG_DFL)

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before[number] = signal.signal(number, on_signal)
        try:
            self.start()
            while not signalled and not self._stopping:
                time.sleep(0.1)
            if signalled:
                log.info("%s: %s, draining", self.name, signal.Signals(signalled[0]).name)
            self.stop()
            log.info("%s: stopped", self.name)
        finally:
            for signum, old in before.items():
                signal.signal(signum, old)

    def start(self) -> None:
        """Starts the threads and returns, for programs that do something else as well. Once per Worker."""
        if self._threads:
            raise RuntimeError("a worker starts once")
        log.info("%s: serving %s", self.name, ", ".join(self.queues))
        loops = self._claim_loop, self._report_loop, self._heartbeat_loop, *[self._handler_loop] * self.concurrency
        for body in loops:
            thread = threading.Thread(target=self._guarded, args=(body,), name=body.__name__.strip("_"), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Drains: running handlers finish within `drain`, other claimed steps are given back. Raises as run().

        Called by a handler, it only begins to: the handler is one of those that finish.
        """
        self._begin_stop()
        if threading.current_thread() in self._threads:
            return
        for thread in self._threads:
            thread.join(max(0.1, self._deadline - time.monotonic()))
        self._finish()
        for link in self._links:
            link.close()
        if self._held:
            log.warning("%s: %d steps are left to the end of their leases", self.name, len(self._held))
        if self._failure is not None:
            raise self._failure

    # ---- threads ---------------------------------------------------------------

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except _Stopped:
            pass
        except BaseException as error:
            log.error("%s: %s", self.name, str(error).strip())
            self._failure = self._failure or error
            self._begin_stop()
        if body == self._report_loop:
            self._finish()

    def _finish(self) -> None:
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _begin_stop(self) -> None:
        with self._changed:
            if not self._stopping:
                self._stopping = True
                self._deadline = time.monotonic() + self._drain
                self._reports.extend(_Report(step, RELEASE, (None,)) for step in self._waiting)
                self._waiting.clear()
            self._changed.notify_all()

    def _claim_loop(self) -> None:
        short = 0.0
        while True:
            with self._changed:
                # A report claims as well: half a batch of room is left to it.
                self._changed.wait_for(lambda: self._stopping or self._room() > 0 and (
                    not self._waiting or 2 * self._room() >= self.batch))
                if self._stopping:
                    return
                room = self._reserve(0)
            began, rows = time.monotonic(), []
            try:
                rows = self._claims.query(CLAIM, (self.queues, self.name, room, self.lease, WAIT))
            finally:
                self._accept(rows, room, [])
            # Others were quicker, or the server can not wait: no busy loop.
            short = min(max(short * 2, 0.002), 0.25) if not rows and time.monotonic() - began < 0.1 else 0.0
            self._pause(short, patient=False)

    def _handler_loop(self) -> None:
        link = _Link(self, patient=True)
        self._links.append(link)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                step = self._waiting.popleft()
                step._state = "running"
            report = _Report(step)
            try:
                report = self._attempt(step, link)
            finally:
                with self._changed:
                    step._state = "reporting"
                    self._reports.append(report)
                    self._changed.notify_all()

    def _report_loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._reports or self._finished or self._stopping and
                                       not self._held and not self._reserved)
                if not self._reports:
                    return
                reports = list(self._reports)
                self._reports.clear()
                room = 0 if self._stopping else self._reserve(len(reports))
            rows: List[Sequence[Any]] = []
            try:
                for report in reports:
                    if report.call not in ("", COMPLETE):
                        self._call(report)
                rows = self._complete([report for report in reports if report.call == COMPLETE], room)
            finally:
                self._accept(rows, room, reports)

    def _heartbeat_loop(self) -> None:
        register = 0.0
        while True:
            now = time.monotonic()
            if now >= register:
                self._heartbeats.query(REGISTER, (self.name, self.queues, json.dumps(self.metadata)))
                register = now + REGISTER_EVERY
            with self._changed:
                if self._finished:
                    return
                now = time.monotonic()
                held = [step for step in self._held.values() if step._state != "reporting" and not step.lost]
                due = [step for step in held if step._due <= now]
                if not due:
                    # A step claimed meanwhile wakes this as well.
                    self._changed.wait(min([register - now, *(step._due - now for step in held)]))
                    continue
            for step in due:
                with suppress(LeaseLost):
                    self._heartbeat(step, None)

    # ---- the parts of a step's way ---------------------------------------------

    def _room(self) -> int:
        return self._capacity - len(self._held) - self._reserved

    def _reserve(self, leaving: int) -> int:
        """Room for a claim, with _changed held; `leaving` steps are reported by the same call."""
        room = max(0, min(self.batch, self._room() + leaving))
        self._reserved += room
        return room

    def _accept(self, rows: Sequence[Sequence[Any]], reserved: int, reports: Sequence[_Report]) -> None:
        """Takes in what a claim brought and forgets what was reported."""
        steps = [Step(self, row) for row in rows]
        with self._changed:
            self._reserved -= reserved
            for report in reports:
                self._held.pop(report.step.lease, None)
            for step in steps:
                self._held[step.lease] = step
                if self._stopping:
                    self._reports.append(_Report(step, RELEASE, (None,)))
                else:
                    self._waiting.append(step)
            self._changed.notify_all()

    def _attempt(self, step: Step, link: _Link) -> _Report:
        """Runs the handler; what is to be reported."""
        if step.lost:
            return _Report(step)
        found = (self._handlers.get((step.queue, step.name)) or self._handlers.get((None, step.name)) or
                 self._handlers.get((step.queue, None)))
        if found is None:
            log.warning("%s: %s has no handler here, given back", self.name, step)
            return _Report(step, RELEASE, (UNKNOWN_STEP_DELAY,))
        handler, transactional = found
        try:
            if transactional:
                self._transaction(step, handler, link)
                return _Report(step)
            return _Report(step, COMPLETE, (self._json(handler(step)),))
        except LeaseLost:
            return _Report(step)
        except _Stopped:
            return _Report(step, RELEASE, (None,))
        except DoNotRetry as error:
            return _Report(step, FAIL, (describe(error), False, None))
        except RetryAfter as error:
            return _Report(step, FAIL, (describe(error), True, error.delay))
        except BaseException as error:  # SystemExit too: a handler does not end the worker
            log.warning("%s: %s failed", self.name, step, exc_info=True)
            return _Report(step, FAIL, (describe(error), True, None))

    def _transaction(self, step: Step, handler: Handler, link: _Link) -> None:
        """Handler and completion in one transaction."""
        try:
            with ExitStack() as stack:
                # Entered in link.call, so that a dead connection is found before the handler begins.
                connection, _ = link.call(lambda c: (c, stack.enter_context(c.transaction())))
                results = self._json(handler(step, connection))
                step._state = "reporting"  # a heartbeat would wait for this transaction
                try:
                    connection.execute(COMPLETE, (*step._key, results), prepare=False)
                except psycopg.Error as error:
                    self._refused(step, error)
                    if UNACCEPTABLE.match(sqlstate(error) or ""):
                        raise DoNotRetry(str(error)) from error
                    raise
        finally:
            if link._connection is not None and link._connection.closed:
                link.close()

    def _json(self, results: Any) -> Optional[str]:
        try:
            return None if results is None else json.dumps(results, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:  # and would be the next time
            raise DoNotRetry(f"the handler's results are not JSON: {error}") from error

    def _complete(self, reports: Sequence[_Report], room: int) -> List[Sequence[Any]]:
        """Completes steps and claims the next ones, in one call; the rows of the claim."""
        if not reports:
            return []
        keys = [report.step._key for report in reports]
        arguments = (*map(list, zip(*keys)), [report.arguments[0] for report in reports],
                     self.queues, self.name, room, self.lease)
        try:
            rows = self._completions.query(COMPLETE_MANY, arguments)
        except psycopg.Error as error:
            # One of them is to blame, a result too large or not jsonb: which one?
            log.info("%s: %d completions refused, now one by one: %s", self.name, len(reports), str(error).strip())
            for report in reports:
                self._call(report)
            return []
        for outcome, *row in rows:
            if outcome == "refused":
                log.info("%s: completion of step %d.%d refused: its lease had ended", self.name, row[0], row[1])
        return [row for outcome, *row in rows if outcome == "claimed"]

    def _call(self, report: _Report) -> None:
        """One report on its own. What the server does not accept as results fails the step."""
        step = report.step
        try:
            self._completions.query(report.call, (*step._key, *report.arguments))
        except psycopg.Error as error:
            with suppress(LeaseLost):
                self._refused(step, error)
                if report.call != COMPLETE:
                    raise
                self._call(_Report(step, FAIL, (describe(error), False, None)))

    def _heartbeat(self, step: Step, checkpoint: Optional[str]) -> None:
        if step.lost:
            raise LeaseLost(str(step))
        try:
            step._extended(self._heartbeats.query(HEARTBEAT, (*step._key, self.lease, checkpoint))[0][0])
        except psycopg.Error as error:
            if step._state != "reporting":  # one that is reported meanwhile is not lost
                self._refused(step, error)
            if sqlstate(error) != STALE_LEASE:
                raise

    def _refused(self, step: Step, error: psycopg.Error) -> None:
        """LeaseLost if that is what the error says."""
        if sqlstate(error) == STALE_LEASE:
            if not step.lost:
                log.info("%s: %s is no longer ours, dropped", self.name, step)
            step._lost.set()
            raise LeaseLost(str(step)) from error

    def _connect(self) -> Connection:
        if callable(self._database):
            connection = self._database()
        else:
            settings: Dict[str, Any] = {"application_name": self.name[:63], "connect_timeout": 10,
                                        "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30000}
            given = conninfo_to_dict(self._database)
            # No prepared statements: pgbouncer's next transaction may be elsewhere.
            connection = psycopg.connect(self._database, prepare_threshold=None, **{
                key: value for key, value in settings.items() if key not in given})
        connection.autocommit = True
        return connection

    def _pause(self, seconds: float, patient: bool) -> bool:
        """Waits; whether to give up because the worker stops."""
        with self._changed:
            return self._changed.wait_for(lambda: self._finished or self._stopping and (
                not patient or time.monotonic() >= self._deadline), seconds)
