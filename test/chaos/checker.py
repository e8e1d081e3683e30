#!/usr/bin/python3
"""checker.py DSN [JOURNAL...]: what happened in a database, against the contract.

Reads the history, the table of effects if there is one (chaos.effects, see
setup.sql) and which steps there are, never what the rows of tasks and steps
say of themselves. It knows the state machines by heart. Run it when nothing is
going on any more. JOURNALs name the tasks that clients know to be accepted.

Prints each violation, and exits with 1 if there are any. The lines:

  lost      every accepted task is there
  legal     every change of state is one of the state machine's, and follows from those before it: from the
            first state to the last there is a way that takes each row of the history once, so none is doubled
  once      no step is completed twice
  effects   a step in the database, or of a transactional worker, had its effect once if it is complete, by the
            attempt that completed it, and none otherwise; any other complete step had its at least once
  order     no step began before its parents were satisfied, and it got the results of the attempts that completed
            them (by the order of the effects, which no clock has a say in)
  finished  every task has come to an end; none is complete with a step that is not; none in error without a reason

The history has the order of the changes only as far as the clock goes forward,
so it is not relied on.
"""
import json
import os
import re
import sys
from collections import Counter, defaultdict

import psycopg

SATISFIED = {'complete', 'resolved_manually', 'skipped'}
OVER = {'complete', 'cancelled', 'resolved_manually', 'error'}


def pairs(text):
    """"a: b c" a line: a may become b or c."""
    return {(line.split(':')[0].strip(), to) for line in text.strip().split('\n') for to in line.split(':')[1].split()}


STEP = pairs("""
    pending: enqueued waiting in_progress complete skipped cancelled resolved_manually
    waiting: enqueued complete skipped cancelled resolved_manually
    enqueued: in_progress complete waiting_for_retry error skipped cancelled resolved_manually
    in_progress: complete waiting_for_retry error enqueued cancelled resolved_manually
    waiting_for_retry: enqueued cancelled resolved_manually
    error: enqueued pending cancelled resolved_manually
    cancelled: resolved_manually
""")
TASK = pairs("""
    pending: in_progress complete error paused cancelled resolved_manually
    in_progress: complete error paused cancelled resolved_manually
    paused: pending in_progress complete error cancelled resolved_manually
    error: in_progress complete cancelled resolved_manually
""")

LINES = ('lost', 'legal', 'once', 'effects', 'order', 'finished')


def last_state(changes, first, legal):
    """(the state at the end of the changes, what is wrong with them): no order is needed.

    Each change leaves one state and enters another, so every state but the first and the last is entered as often
    as it is left. Any two rows more or less of one kind upset that.
    """
    for pair in changes:
        if pair not in legal:
            return None, 'from %s to %s' % pair
    balance = Counter({first: 1})
    for origin, to in changes:
        balance[origin] -= 1
        balance[to] += 1
    ends = [state for state, count in balance.items() if count]
    if len(ends) != 1 or balance[ends[0]] != 1:
        return None, 'no way from %s through %s' % (first, ', '.join('%s > %s' % pair for pair in changes))
    return ends[0], None


class History:
    """What a database holds."""

    def __init__(self, connection):
        self.tasks = defaultdict(list)     # task -> changes
        for task, origin, to in connection.execute(
                'SELECT task_id, from_state, to_state FROM tasker.task_transitions ORDER BY created_at'):
            self.tasks[task].append((origin, to))
        self.steps = defaultdict(list)     # (task, step) -> changes
        self.completed = defaultdict(list)  # (task, step) -> attempts that completed it
        for task, step, attempt, origin, to in connection.execute(
                'SELECT task_id, step_id, attempt, from_state, to_state FROM tasker.workflow_step_transitions '
                'ORDER BY created_at'):
            self.steps[task, step].append((origin, to))
            if to == 'complete':
                self.completed[task, step].append(attempt)
        # The shape of the tasks, and what was asked of them: nothing of it ever changes.
        self.context = dict(connection.execute('SELECT task_id, context FROM tasker.tasks').fetchall())
        self.starts_late = {task for task, in connection.execute(
            'SELECT task_id FROM tasker.tasks WHERE start_at > requested_at')}
        self.names, self.plain = {}, set()
        for task, step, name, plain in connection.execute(
                "SELECT s.task_id, s.step_id, n.name, n.handler_kind = 'queue' AND n.handler <> 'tx' "
                'FROM tasker.workflow_steps s JOIN tasker.tasks t USING (task_id) '
                'JOIN tasker.named_steps n USING (named_task_id, step_no)'):
            self.names[task, step] = name
            if plain:
                self.plain.add((task, step))
        self.parents = defaultdict(list)
        for task, parent, child in connection.execute(
                'SELECT task_id, from_step_id, to_step_id FROM tasker.workflow_step_edges'):
            self.parents[task, child].append((task, parent))
        self.effects = None
        if connection.execute("SELECT to_regclass('chaos.effects') IS NOT NULL").fetchone()[0]:
            self.effects = defaultdict(list)   # (task, step) -> (seq, attempt, parents)
            for task, step, *effect in connection.execute(
                    'SELECT task_id, step_id, seq, attempt, parents FROM chaos.effects ORDER BY seq'):
                self.effects[task, step].append(effect)


class Check:
    def __init__(self, history, accepted):
        self.history = history
        self.violations = {line: [] for line in LINES}
        self.ends = {}       # step -> its last state; None if its history makes no sense
        self.task_ends = {}
        self.steps_of = defaultdict(list)
        for step in history.names:
            self.steps_of[step[0]].append(step)
        self.lost(accepted)
        self.legal()
        self.once()
        if history.effects is not None:
            self.check_effects()
            self.order()
        self.finished()

    def say(self, line, step, text, *arguments):
        about = 'task %d' % step if isinstance(step, int) else 'step %d.%d' % step
        self.violations[line].append('%s: %s: %s' % (line, about, text % arguments))

    def lost(self, accepted):
        for task in sorted(accepted - set(self.history.context)):
            self.say('lost', task, 'was accepted, and is gone')

    def first_states(self, step):
        if self.history.parents[step]:
            return 'pending'
        return 'waiting' if step[0] in self.history.starts_late else 'enqueued'

    def legal(self):
        history = self.history
        for step in sorted(set(history.names) | set(history.steps)):
            changes = history.steps.get(step, [])
            self.ends[step], wrong = last_state(changes, self.first_states(step), STEP)
            if wrong:
                self.say('legal', step, '%s', wrong)
        for task in sorted(set(history.context) | set(history.tasks)):
            self.task_ends[task], wrong = last_state(history.tasks.get(task, []), 'pending', TASK)
            if wrong:
                self.say('legal', task, '%s', wrong)

    def once(self):
        for step, attempts in self.history.completed.items():
            if len(attempts) > 1:
                self.say('once', step, 'was completed %d times', len(attempts))

    def check_effects(self):
        history = self.history
        for step in sorted(set(history.names) | set(history.effects)):
            attempts = [attempt for _, attempt, _ in history.effects.get(step, [])]
            by = history.completed.get(step, [])
            if step in history.plain:
                if by and by[-1] not in attempts:
                    self.say('effects', step, 'was completed by attempt %d, effects are of %s', by[-1], attempts)
            elif len(attempts) != len(by[:1]) or attempts != by[:1]:
                self.say('effects', step, 'effects of attempts %s, completed by %s', attempts, by)

    def order(self):
        history = self.history
        for step, effects in sorted(history.effects.items()):
            for parent in history.parents[step]:
                name, state = history.names.get(parent), self.ends.get(parent)
                if state is not None and state not in SATISFIED:
                    self.say('order', step, 'began, and its parent "%s" is %s', name, state)
                if state != 'complete':
                    continue
                by = history.completed[parent][-1]
                seqs = [seq for seq, attempt, _ in history.effects.get(parent, []) if attempt == by]
                if seqs and min(seqs) > effects[0][0]:
                    self.say('order', step, 'began before its parent "%s" did what completed it', name)
                for _, attempt, parents in effects:
                    if (parents or {}).get(name) != {'step': name, 'attempt': by}:
                        self.say('order', step, 'attempt %d got %s from its parent "%s", completed by attempt %d',
                                 attempt, json.dumps((parents or {}).get(name)), name, by)

    def finished(self):
        for task, state in sorted(self.task_ends.items()):
            ends = {step: self.ends[step] for step in self.steps_of[task]}
            open_ends = ['%d %s' % (step[1], end) for step, end in sorted(ends.items())
                         if end is not None and end not in SATISFIED]
            if state is None:
                continue
            if state not in OVER:
                self.say('finished', task, 'is %s, with steps %s', state, open_ends)
            elif state == 'complete' and open_ends:
                self.say('finished', task, 'is complete, with steps %s', open_ends)
            elif state == 'cancelled' and not set(ends.values()) <= SATISFIED | {'cancelled', None}:
                self.say('finished', task, 'is cancelled, with steps %s', open_ends)
            elif state == 'error' and not {'doomed', 'kills'} & set(self.history.context.get(task) or {}):
                self.say('finished', task, 'is in error for no good reason, with steps %s', open_ends)


def accepted_in(journals):
    """The ids of the tasks that journals (their names, or directories of them) say are accepted."""
    accepted = set()
    for name in journals:
        names = [os.path.join(name, inner) for inner in os.listdir(name)] if os.path.isdir(name) else [name]
        for inner in names:
            with open(inner, encoding='utf-8') as file:
                # a process that was killed may have left half a line
                accepted.update(int(id) for id in re.findall(r'^accepted: (\d+)\n', file.read(), re.M))
    return accepted


def check(connection, accepted=frozenset()):
    """Violations, a list a line of the contract."""
    return Check(History(connection), accepted).violations


def main():
    with psycopg.connect(sys.argv[1], autocommit=True) as connection:
        violations = check(connection, accepted_in(sys.argv[2:]))
    for line in LINES:
        print('%-8s %s' % (line, '%d violations' % len(violations[line]) if violations[line] else 'kept'))
    for line in LINES:
        print('\n'.join(violations[line][:20]), end='\n' if violations[line] else '')
    sys.exit(any(violations.values()))


if __name__ == '__main__':
    main()
