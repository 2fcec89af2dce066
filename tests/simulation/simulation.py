"""The simulation of a plan: clients, network, server and engine in virtual time, with all that must hold checked."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from jaxserve import EngineStopped
from jaxserve.engine.plan import StepPlan
from jaxserve.faults import InjectedFault
from jaxserve.outputs import FinishReason, TokenOutput
from tests.expected_output import NoTokens, expected_beams, expected_output
from tests.simulation.client import PATIENCE_S, Client, Outcome
from tests.simulation.deployment import NEVER, Deployment, Incarnation, is_expected_exit
from tests.simulation.health import HealthMonitor
from tests.simulation.judge import Judge
from tests.simulation.model import SimulatedFaults, SimulatedModel, digest_plan, make_tokenizer
from tests.simulation.plan import Action, Plan
from tests.simulation.replacements import replaced
from tests.simulation.truth import is_beginning
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.virtual_network import Network
from tests.simulation.virtual_threads import Durations, TimeModule

GONE_S = 1.0  # within which, or a step, the requests of a client that has left are aborted
SETTLE_S = 30.0  # after the last client has its reply, until which nothing may be left


class Violation(AssertionError):
    """Something that must always hold does not."""


@dataclass
class Report:
    """The result of a simulation. failure: what was violated; None: nothing."""

    seed: int
    failure: str | None = None
    digest: str = ""
    virtual_s: float = 0.0
    real_s: float = 0.0
    num_turns: int = 0
    num_steps: int = 0
    num_requests: int = 0
    num_lives: int = 0
    num_audits: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)


def simulate(plan: Plan) -> Report:
    """Run a plan to its end, or to the first violation."""
    report, started_s = Report(plan.seed), time.monotonic()
    simulation = Simulation(plan, report)
    gc.collect()
    gc.disable()  # what a collection finalizes would depend on when it runs
    try:
        simulation.run()
    except Exception as error:
        report.failure = f"{type(error).__name__}: {error}"
        import traceback

        report.trace = "".join(traceback.format_exception(error))
        report.failure += f" (after {simulation.now_s:.3f} s)"
    finally:
        gc.enable()
    report.real_s = time.monotonic() - started_s
    return report


class Simulation:
    """One run of a plan."""

    def __init__(self, plan: Plan, report: Report) -> None:
        self._plan, self._report = plan, report
        self._loop = VirtualLoop(self._after_turn)
        self._threads = self._loop.threads
        self._threads.rng = Durations(plan.seed, self._loop)
        self._threads.on_poll = self._audit
        self._violation: Exception | None = None
        self._time = TimeModule(self._threads)
        self._faults = SimulatedFaults()
        self._fault_times: list[tuple[float, str]] = []
        self._faults.on_hit = self._on_fault
        self._model = SimulatedModel(plan.settings, make_tokenizer(), self._threads, self._faults, self._on_plan)
        self._network = Network(self._loop, plan.seed, self._on_segment)
        self._deployment = Deployment(
            self._loop, self._network, self._model, plan.settings, self._on_outputs, self._on_end_of_life
        )
        self._outcomes: list[Outcome] = []
        self._judge = Judge(plan.settings, self._deployment.lives, self._fault_times)
        self._health = HealthMonitor(self._loop, self._network, self._deployment, plan.settings)
        self._threads.on_block = self._health.on_engine
        self._digest = sha256()
        self._own_tasks: set[asyncio.Task[Any]] = set()
        self._num_judged = 0
        self._counts = (0, 0)

    @property
    def now_s(self) -> float:
        """Virtual seconds since the start."""
        return self._loop.time() - 1000.0

    def run(self) -> None:
        """Run to the end. Raises whatever is violated."""
        log_watcher = _LogWatcher(lambda: self._on_fault("culprit"))
        loggers = [logging.getLogger(name) for name in ("jaxserve", "server", "asyncio", "quart", "hypercorn")]
        kept = [(logger, logger.level, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.addHandler(log_watcher)
            logger.setLevel(logging.ERROR)
            logger.propagate = False
        try:
            with replaced(self._threads, self._time, self._model.load_engines, self._end_process):
                try:
                    self._log_errors = log_watcher.errors
                    self._loop.run_until_complete(self._main())
                    self._after_turn()
                finally:
                    self._threads.on_block = self._threads.on_poll = self._loop.after_turn = lambda: None
                    _close(self._loop)
        finally:
            for logger, level, propagate in kept:
                logger.removeHandler(log_watcher)
                logger.setLevel(level)
                logger.propagate = propagate
            self._fill_report()

    async def _main(self) -> None:
        self._own_tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        deployment = self._spawn(self._deployment.run())
        health = self._spawn(self._health.run())
        clients: list[asyncio.Task[Any]] = []
        for action in self._plan.actions:
            await asyncio.sleep(max(0.0, 1000.0 + action["at_s"] - self._loop.time()))
            self._start(action, clients)
            gc.collect(0)
        self._faults.disarm()
        if clients:
            await asyncio.wait(clients)
        for client in clients:
            client.result()
        self._judge_new()
        await asyncio.sleep(SETTLE_S)
        await self._wait_until_up()
        self._check_idle(self._deployment.life)
        self._health.stop()
        await health
        await asyncio.sleep(1.0)
        self._deployment.stop()
        await deployment

    async def _wait_until_up(self) -> None:
        async with asyncio.timeout(60.0):
            while not self._deployment.life.is_up:
                await asyncio.sleep(0.1)
        await asyncio.sleep(SETTLE_S)

    def _start(self, action: Action, clients: list[asyncio.Task[Any]]) -> None:
        self._record("action", action["kind"], action["at_s"])
        match action["kind"]:
            case "call":
                clients.append(self._spawn(self._call(action)))
            case "fault":
                if action["point"] == "clock_jump":
                    self._time.jump(action["argument"])
                else:
                    self._faults.arm(action["point"], action["argument"])
            case "stop":
                self._deployment.terminate()
                if action["again_after_s"] is not None:
                    self._loop.call_later(action["again_after_s"], self._deployment.terminate)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._own_tasks.add(task)
        task.add_done_callback(self._on_task_end)
        return task

    def _on_task_end(self, task: asyncio.Task[Any]) -> None:
        self._own_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.errors.append({"message": "a task of the simulation", "exception": error})

    async def _call(self, action: Action) -> None:
        outcomes: list[Outcome] = []
        await Client(self._network, action, outcomes).run()
        for outcome in outcomes:
            self._record("outcome", outcome.base, outcome.status, outcome.is_complete, len(outcome.body))
            if outcome.has_left and action["manner"]["how"] != "stall":
                self._watch_gone(outcome)
        self._outcomes += outcomes
        self._judge_new()

    def _judge_new(self) -> None:
        """Judge the outcomes that have come, when all that excuses them is known."""
        while self._num_judged < len(self._outcomes):
            self._judge.judge(self._outcomes[self._num_judged])
            self._num_judged += 1

    def _watch_gone(self, outcome: Outcome) -> None:
        """Check a second after the server can know that a client has left that its requests are gone, too."""
        link = outcome.call["link"]
        self._loop.call_later(
            GONE_S + 2 * link["latency_s"] + 3000 / link["bytes_per_s"] + 2 * self._longest_step_s(),
            self._check_gone,
            outcome,
        )

    def _longest_step_s(self) -> float:
        return self._health.longest_step_s

    def _check_gone(self, outcome: Outcome) -> None:
        life = self._deployment.life
        if life.engine is None or self._health.step_age_s > 0.5:
            return
        live = set(life.engine.scheduler.request_ids())
        for requests in life.requests.get(outcome.base, ()):
            if left := [request.request_id for request in requests if request.request_id in live]:
                raise Violation(f"P5: requests {left} of {outcome.base} run {GONE_S} s after their client has left")

    def _on_fault(self, point: str) -> None:
        self._record("fault", point)
        self._fault_times.append((self._loop.time(), point))

    def _on_plan(self, plan: StepPlan) -> None:
        self._report.num_steps += 1
        self._digest.update(digest_plan(plan))

    def _on_segment(self, number: int, end: str, size: int) -> None:
        self._record(number, end, size)

    def _on_outputs(self, life: Incarnation, outputs: list[TokenOutput]) -> None:
        try:
            self._check_outputs(life, outputs)
        except Exception as error:  # the engine would take it for its own
            self._violation = self._violation or error

    def _check_outputs(self, life: Incarnation, outputs: list[TokenOutput]) -> None:
        """Check the tokens of each request against those that it gets alone."""
        for output in outputs:
            self._record("output", output.request_id, output.token_ids, output.finish_reason)
            request = life.by_id[output.request_id]
            if output.request_id in life.ended:
                raise Violation(f"I12: an output of request {output.request_id}, which has ended")
            if output.request_id not in life.heard:
                life.prefixes.check_hit(request, output.num_cached_tokens)
            heard = life.heard.setdefault(output.request_id, [])
            heard += output.token_ids
            life.prefixes.add_tokens(request, (*request.prompt_ids, *heard))
            reason = output.finish_reason
            if reason is not None:
                life.ended[output.request_id] = str(reason)
            if reason is FinishReason.ERROR:
                continue
            if request.is_beam_search:
                try:
                    truth = expected_beams(request)[request.choice_ids.index(output.request_id)]
                except NoTokens:
                    raise Violation("a beam search with too few outputs has some") from None
            else:
                truth = expected_output(request)
            if not is_beginning(heard, truth.tokens):
                raise Violation(f"P2: request {output.request_id} has tokens {heard}, not {truth.tokens}")
            if reason is not None and (tuple(heard), str(reason)) != (truth.tokens, truth.reason):
                raise Violation(f"P2: request {output.request_id} ends with {heard} {reason}, not {truth}")

    def _audit(self) -> None:
        """Evaluate the invariants of the engine between any two things that its thread does."""
        engine = self._deployment.life.engine
        if engine is None or self._violation is not None:
            return
        self._report.num_audits += 1
        try:
            engine.audit()
        except Exception as error:  # the engine would take it for its own
            self._violation = error

    def _after_turn(self) -> None:
        self._report.num_turns += 1
        if self._violation is not None:
            raise self._violation
        if self._loop.errors:
            context = self._loop.errors[0]
            error = context.get("exception")
            if isinstance(error, AssertionError):
                raise error
            raise Violation(f"{context['message']}: {error!r}") from error
        if self._log_errors:
            raise Violation(f"in the log: {self._log_errors[0]}")
        if self._deployment.lives:
            self._check_server(self._deployment.life)

    def _check_server(self, life: Incarnation) -> None:
        """Check the counts of the server that must always add up."""
        if life.dead_at_s == life.closing_s == NEVER and life.llm is not None and life.llm.is_dead:
            life.dead_at_s = self._loop.time()
        state = life.state
        if state is None:
            return
        slots = state.slots
        counts = (len(slots), life.llm._client._queue.num_taken)
        if counts == self._counts:
            return
        self._counts = counts
        num_choices = sum(slot.places.num_choices for slot in slots._requests)
        if num_choices != life.llm._client._queue.num_taken or num_choices != sum(slots._choices_by_caller.values()):
            raise Violation(
                f"P3: {num_choices} choices are admitted and {life.llm._client._queue.num_taken} are counted"
            )
        if not slots._requests and (state.slots._unsent.total_bytes or life.llm._running):
            raise Violation("P3: output of requests that are gone is kept")

    def _end_process(self, code: int) -> None:
        """End the process, as the timer of a shutdown does when a step hangs: without its step the rest ends, too."""
        self._record("os._exit", code)
        if self._health.step_age_s < 1.0:
            raise Violation(f"P8: the process is ended with {code}, because it does not end by itself")
        self._threads.kill_all("jaxserve-engine")

    def _on_end_of_life(self, life: Incarnation) -> None:
        self._record("end", life.number, life.exit_code)
        self._check_death(life)
        if not is_expected_exit(life):
            raise Violation(f"P8: the server has ended with {life.exit_code}; its engine died at {life.dead_at_s}")
        limit_s = self._plan.settings["drain_timeout_s"] + 5.0
        if life.dead_at_s == NEVER and life.ended_s - life.draining_s > limit_s:
            raise Violation(f"P8: the shutdown took {life.ended_s - life.draining_s:.1f} s")
        self._check_gone_process(life)

    def _check_death(self, life: Incarnation) -> None:
        """Check that a dead engine has died of something."""
        timeout_s, at_s = self._plan.settings["step_timeout_s"], life.dead_at_s
        if at_s == NEVER:
            return
        recent = [(fault_s, point) for fault_s, point in self._fault_times if life.started_s <= fault_s <= at_s]
        num_raised = sum(point == "step_raise" and at_s - fault_s < 600.0 for fault_s, point in recent)
        has_hung = any(point == "step_hang" and timeout_s <= at_s - fault_s + 0.1 for fault_s, point in recent)
        has_exited = any(point == "engine_exit" for _, point in recent)
        if not (num_raised > 3 or has_hung or has_exited):
            raise Violation("P6: the engine has died of nothing")

    def _check_gone_process(self, life: Incarnation) -> None:
        if life.state.connections:
            raise Violation(f"P3: {len(life.state.connections)} connections are open after the end")
        if len(life.state.slots) or life.llm._client._queue.num_taken or life.state.body_meter.held_bytes:
            raise Violation("P3: requests are admitted after the end")
        left = [task for task in asyncio.all_tasks() if task not in self._own_tasks]
        if left:
            raise Violation(f"P3: tasks are left after the end: {left}")

    def _check_idle(self, life: Incarnation) -> None:
        """Check that nothing is left when there is no request (I19)."""
        client = life.llm._client
        stats = life.llm.stats()
        numbers = {
            "active pages": stats.pages_active,
            "running requests": stats.num_requests_running,
            "waiting requests": stats.num_requests_waiting,
            "unfinished sequences": client.num_unfinished,
            "waiting tokens": sum(replica.num_waiting_tokens for replica in client.replicas),
            "places in the queue": client._queue.num_taken,
            "callers in the queue": len(client._queue._taken_by_caller),
            "streams": len(life.llm._running),
            "admitted requests": len(life.state.slots),
            "held bytes": life.state.body_meter.held_bytes,
            "unsent bytes": life.state.slots._unsent.total_bytes,
            "waiting tasks": sum(
                len(threads._waiting)
                for threads in (life.llm._text_threads, life.llm._worker_threads, life.state.reader._threads)
            ),
            "connections": len(life.state.connections),
        }
        if left := {name: number for name, number in numbers.items() if number}:
            raise Violation(f"I19: nobody asks for anything, and there are {left}")
        if life.engine is not None:
            life.engine.audit()

    def _record(self, *parts: Any) -> None:
        self._digest.update(f"{self._loop.time():.7f} {parts!r}\n".encode())

    def _fill_report(self) -> None:
        report = self._report
        report.digest = self._digest.hexdigest()[:16]
        report.virtual_s = round(self.now_s, 3)
        report.num_requests = len(self._outcomes)
        report.num_lives = len(self._deployment.lives)
        statuses = Counter(str(outcome.status) for outcome in self._outcomes)
        report.statuses = dict(sorted(statuses.items()))
        report.faults = dict(sorted(self._faults.hits.items()))


def _close(loop: VirtualLoop) -> None:
    """End what still runs after a violation."""
    loop.set_exception_handler(lambda _, context: None)
    loop.threads.kill_all()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    while tasks := asyncio.all_tasks(loop):
        with suppress(RuntimeError):  # the end of the run that failed may stop the loop once more
            loop.run_until_complete(asyncio.wait(tasks, timeout=PATIENCE_S))
            break
    loop.threads.kill_all()
    loop.close()


class _LogWatcher(logging.Handler):
    """Collects errors in the log that no injected fault explains."""

    EXPECTED: Sequence[str] = ("the engine is dead", "the engine has died")
    CULPRIT = "has failed with InjectedFault"  # a request that ran alone in steps that failed

    def __init__(self, on_culprit: Callable[[], None]) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []
        self._on_culprit = on_culprit

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, InjectedFault | EngineStopped):
            return
        message = record.getMessage()
        if self.CULPRIT in message:
            self._on_culprit()
            return
        if error is None and message.startswith(tuple(self.EXPECTED)):
            return
        self.errors.append(f"{message} {error!r}")
