/*
 * protocol.pml
 *	  The protocol of external workers as a model: claim, complete, complete and
 *	  claim, fail, heartbeat, release, the scheduler's expiry and retry, cancel,
 *	  resolve, workers that die; a join of two parents and, with -DFAILING, a step
 *	  beside it that fails for good.
 *
 * Spin looks at every order in which these can happen. test/property/model
 * runs it, and its broken variants, each of which must fail; README.md says which
 * statement of the sources a statement here stands for, and what is left out.
 *
 * A row has two versions: the newest, which its transaction sees, and whoever
 * has waited for its lock; and the last committed one, which everybody else sees.
 * An "atomic" is a statement of the server, but where it waits for a lock. A hint
 * and a timer are only written by who has the step locked, so they are part of
 * its row.
 */

#define A		0				/* parents of ... */
#define B		1
#define C		2				/* ... the join */
#define F		3				/* fails for good; nothing depends on it */
#ifdef FAILING
#define STEPS	4
#else
#define STEPS	3
#endif
#define NONE	7
#define WORKERS	2

/* States of steps and, but for three of them, of the task. */
#define PENDING		0
#define ENQUEUED	1
#define IN_PROGRESS	2
#define RETRY		3			/* waiting_for_retry */
#define ERROR		4
#define COMPLETE	5
#define CANCELLED	6
#define RESOLVED	7			/* resolved_manually */

/* How often what could go on for ever may happen. */
#ifndef DEATHS
#define DEATHS		0
#endif
#ifndef RELEASES
#define RELEASES	0
#endif
#ifndef BEATS
#define BEATS		0
#endif
#ifndef ATTEMPTS
#define ATTEMPTS	1
#endif

typedef Step {
	unsigned state : 3;
	unsigned parents : 2;		/* pending_parents */
	unsigned attempts : 2;
	unsigned lease : 2;			/* 0: null */
	bit extended;				/* lease_expires_at is not the claim's any more */
	bit hint;					/* there is a row of ready_queue, */
	bit timer					/* of timers */
};

Step now[STEPS];				/* the newest versions */
Step was[STEPS];				/* the last committed ones */
byte locked[STEPS];				/* by whom; 0: by nobody */

/* tasker.leases: a bit for a row whose time is when the lease ends, extended or not. */
#define ROW(extended)	(1 << (extended))
byte rows[STEPS];
byte in_hand = NONE;			/* the step whose row the scheduler has taken */

byte task_now = PENDING, task_was = PENDING, task_locked;
bit blocked_now, blocked_was;
bit task_timer;

byte holds[WORKERS] = NONE;		/* the step that a worker has */
byte lease[WORKERS];			/* ... and the lease that came with it */
byte deaths = DEATHS, releases = RELEASES, beats = BEATS;
byte joined;					/* how often the join was released */

#define ME				(_pid + 1)
#define h				holds[w]
#define l				lease[w]
#define sees(s, what)	(locked[s] == ME -> now[s].what : was[s].what)
#define task_sees		(task_locked == ME -> task_now : task_was)
#define free(s)			(locked[s] == 0 || locked[s] == ME)
#define task_free		(task_locked == 0 || task_locked == ME)
#define satisfied(x)	((x) == COMPLETE || (x) == RESOLVED)
#define ended(x)		((x) >= COMPLETE)
#define active(x)		((x) == ENQUEUED || (x) == IN_PROGRESS || (x) == RETRY)
#define open(x)			((x) == PENDING || (x) == IN_PROGRESS)
#define waiting(s)		(free(s) && was[s].hint && (was[s].state == ENQUEUED || ended(was[s].state)))

/* ------------------------------------------------------------ transactions */

#define COPY(to, from, s) \
	to[s].state = from[s].state; \
	to[s].parents = from[s].parents; \
	to[s].attempts = from[s].attempts; \
	to[s].lease = from[s].lease; \
	to[s].extended = from[s].extended; \
	to[s].hint = from[s].hint; \
	to[s].timer = from[s].timer

/* What must be so after every commit. */
inline check()
{
	/* the counter is what a recount gives, and the join comes after both */
	assert(was[C].state != PENDING || was[C].parents ==
		   2 - satisfied(was[A].state) - satisfied(was[B].state));
	assert(!(active(was[C].state) || was[C].state == COMPLETE) ||
		   (satisfied(was[A].state) && satisfied(was[B].state)));
	assert(joined <= 1);
	for (i : 0 .. STEPS - 1) {
		/* a hint may be stale, never missing */
		assert(was[i].state != ENQUEUED || was[i].hint);
		assert(was[i].state != RETRY || was[i].timer);
		assert(was[i].state != IN_PROGRESS || rows[i] != 0 || in_hand == i);
		/* the task's state is what its steps' are */
		assert(task_was != COMPLETE || satisfied(was[i].state));
		assert(task_was != ERROR || !active(was[i].state));
		assert(task_was != CANCELLED || ended(was[i].state))
	}
}

inline commit_step(s)
{
	assert(now[s].state != COMPLETE || was[s].state == COMPLETE || task_was != CANCELLED);
	joined = joined + (s == C && was[s].state == PENDING && active(now[s].state));
	/* a claim's row of tasker.leases; what is not in progress is not looked at */
	if
	:: now[s].state != IN_PROGRESS -> rows[s] = 0
	:: now[s].state == IN_PROGRESS && was[s].state != IN_PROGRESS -> rows[s] = ROW(0)
	:: else
	fi;
	if :: ended(now[s].state) -> now[s].attempts = 0 :: else fi;
	COPY(was, now, s);
	locked[s] = 0
}

inline commit()
{
	d_step {
		for (i : 0 .. STEPS - 1) {
			if :: locked[i] == ME -> commit_step(i) :: else fi
		}
		if
		:: task_locked == ME ->
			task_was = task_now;
			blocked_was = blocked_now;
			task_locked = 0
		:: else
		fi;
		task_timer = task_timer || look_later;
		look_later = 0;
		check();
		i = 0
	}
}

inline rollback()
{
	d_step {
		for (i : 0 .. STEPS - 1) {
			if :: locked[i] == ME -> COPY(now, was, i); locked[i] = 0 :: else fi
		}
		if
		:: task_locked == ME ->
			task_now = task_was;
			blocked_now = blocked_was;
			task_locked = 0
		:: else
		fi;
		look_later = 0;
		i = 0
	}
}

/* ------------------------------------------------------------ the triggers */

#define legal(from, to) \
	((from == PENDING && (to == ENQUEUED || to == IN_PROGRESS)) || \
	 (from == ENQUEUED && to == IN_PROGRESS) || \
	 (from == IN_PROGRESS && (to == COMPLETE || to == RETRY || to == ERROR || to == ENQUEUED)) || \
	 (from == RETRY && to == ENQUEUED) || \
	 (!ended(from) && (to == CANCELLED || to == RESOLVED)))

/* A step's change of state. One that the trigger would refuse is a mistake. */
inline change(s, to)
{
	assert(legal(now[s].state, to));
	assert(now[s].state != PENDING || ended(to) || now[s].parents == 0);
	now[s].state = to;
	if
#ifdef NO_HINT
	:: to == ENQUEUED && s != C -> now[s].hint = 1
#else
	:: to == ENQUEUED -> now[s].hint = 1
#endif
	:: to == RETRY -> now[s].timer = 1
	:: else
	fi;
	if :: to != IN_PROGRESS -> now[s].lease = 0; now[s].extended = 0 :: else fi
}

/* One parent less for the join, whose state follows. */
inline lower_counter()
{
	if
	:: sees(C, state) != PENDING -> may_complete = 1
	:: else ->
#ifdef COUNTER_UNLOCKED
		seen = sees(C, parents);
#endif
		free(C) -> locked[C] = ME;
#ifndef COUNTER_UNLOCKED
		seen = now[C].parents;
#endif
		if
		:: now[C].state == PENDING ->
			now[C].parents = seen - 1;
			if :: now[C].parents == 0 -> change(C, ENQUEUED) :: else fi
		:: else -> may_complete = 1
		fi
	fi;
	seen = 0
}

/* Does the task's row have to change, as far as one sees without its lock? */
inline look()
{
	to_settle = may_complete || failed || (began && task_sees == PENDING) ||
		(ends && (task_locked == ME -> blocked_now : blocked_was))
}

/* The task's state, by the states of its steps. Its row is locked. */
inline settled_state()
{
	d_step {
		all = 1;
		for (i : 0 .. STEPS - 1) {
			all = all && satisfied(sees(i, state));
			bad = bad || sees(i, state) == ERROR || sees(i, state) == CANCELLED;
			some = some || active(sees(i, state))
		}
		if
		:: ended(task_now)
		:: !ended(task_now) && (may_complete || blocked_now) && all ->
			task_now = COMPLETE;
			blocked_now = 0
		:: else ->
			look_later = look_later || (failed && some && !blocked_now);
			blocked_now = (blocked_now || failed) && bad;
			if
			:: blocked_now && !some -> task_now = ERROR
			:: !(blocked_now && !some) && (task_now == ERROR || (task_now == PENDING && began)) ->
				task_now = IN_PROGRESS
			:: else
			fi
		fi;
		i = 0; all = 0; bad = 0; some = 0;
		to_settle = 0; may_complete = 0; failed = 0; ends = 0; began = 0
	}
}

inline settle()
{
	atomic { to_settle && task_free -> task_locked = ME; settled_state() }
}

/* What a transaction that changes steps needs. */
#define LOCALS \
	unsigned i : 3; \
	unsigned seen : 2; \
	bit mine, may_complete, failed, ends, began, to_settle, look_later, all, bad, some

/* ----------------------------------------------------------------- workers */

/* A lease that nobody has: random ones differ. */
inline new_lease(s)
{
	now[s].lease = 1;
	do
	:: (holds[0] == s && lease[0] == now[s].lease) || (holds[1] == s && lease[1] == now[s].lease) ->
		now[s].lease++
	:: else -> break
	od
}

inline begin(s)
{
	now[s].parents = 0;
	change(s, IN_PROGRESS);
	now[s].attempts++;
	new_lease(s);
	got = s;
	began = 1
}

/* SKIP LOCKED; of a step that has ended only the hint goes. */
inline take()
{
	if
	:: waiting(A) -> got = A
	:: waiting(B) -> got = B
	:: waiting(C) -> got = C
#ifdef FAILING
	:: waiting(F) -> got = F
#endif
	:: else -> got = NONE
	fi;
	if
	:: got != NONE ->
		locked[got] = ME;
		now[got].hint = 0;
		if
#ifdef NO_STATE_CHECK
		:: true -> begin(got)
#else
		:: now[got].state == ENQUEUED -> begin(got)
		:: else -> got = NONE
#endif
		fi
	:: else
	fi
}

/*
 * Lock the step that the worker has: is it in progress, and the lease still the
 * worker's? Only what is so under the lock counts.
 */
inline hold()
{
#ifdef NO_RECHECK
	mine = was[h].state == IN_PROGRESS && was[h].lease == l;
	free(h) -> locked[h] = ME
#else
	free(h) -> locked[h] = ME;
#ifdef NO_LEASE_CHECK
	mine = now[h].state == IN_PROGRESS
#else
	mine = now[h].state == IN_PROGRESS && now[h].lease == l
#endif
#endif
}

inline complete()
{
	hold();
	if
	:: mine ->
		assert(now[h].lease == l);
		change(h, COMPLETE);
		ends = 1;
		may_complete = (h == C || h == F)
	:: else
	fi
}

/*
 * The child of the step that the same call has just completed: taken if this was
 * its last parent and it is as it was found, unless a step in the queue comes
 * before it; else released.
 */
inline hand_over()
{
	if
	:: seen == 1 ->
		free(C) -> locked[C] = ME;
		if
#ifdef NO_HANDOVER_CHECK
		:: true -> begin(C)
#else
		:: now[C].state == PENDING && now[C].parents == 1 -> begin(C)
		:: else -> lower_counter()
#endif
		fi
	:: seen == 1 -> take(); lower_counter()
	:: seen != 1 -> lower_counter(); take()
	fi;
	seen = 0
}

#define find_child() \
	seen = (mine && (h == A || h == B) && sees(C, state) == PENDING && open(task_sees) -> sees(C, parents) : 0)

/* Each choice is a call's first statement; the end of its transaction is common to all. */
proctype Worker(bit w)
{
	LOCALS;
	unsigned got : 3 = NONE;	/* the step that it has when the transaction ends */

end_idle:
	atomic {
		if
		:: h == NONE && open(task_was) && (waiting(A) || waiting(B) || waiting(C)
#ifdef FAILING
			|| waiting(F)
#endif
			) ->				/* claim_steps */
			take();
			look()
		:: h != NONE ->			/* complete_step */
			complete();
			if :: mine && (h == A || h == B) -> lower_counter() :: else fi;
			look()
		:: h != NONE ->			/* complete_steps, with a claim */
			complete();
#ifdef SETTLE_FIRST
			look();
			goto settle_first;
#endif
			find_child();
			goto next
		:: h != NONE ->			/* fail_step */
			hold();
			if
			:: mine && h != F && now[h].attempts < ATTEMPTS -> change(h, RETRY)
			:: mine && (h == F || now[h].attempts >= ATTEMPTS) -> change(h, ERROR); failed = 1; ends = 1
			:: else
			fi;
			look()
		:: h != NONE && beats > 0 ->	/* heartbeat */
			beats--;
			hold();
			if :: mine -> now[h].extended = 1 :: else fi;
			got = h
		:: h != NONE && releases > 0 ->	/* release_step */
			releases--;
			hold();
			if :: mine -> now[h].attempts--; change(h, ENQUEUED) :: else fi
		:: h != NONE && deaths > 0 ->	/* dies with what it has */
			deaths--
		fi;
		goto end
	}
#ifdef SETTLE_FIRST
settle_first:
	do
	:: settle()
	:: atomic { !to_settle -> find_child(); break }
	od;
#endif
next:
	atomic {
		if
		:: mine && (h == A || h == B) -> hand_over()
		:: else -> take()
		fi;
		look()
	}
end:
	do
	:: settle()
	:: atomic { !to_settle ->
			commit();
			h = got; got = NONE; mine = 0;
			l = (h == NONE -> 0 : was[h].lease);
			goto end_idle
		}
	:: atomic { !to_settle && deaths > 0 ->	/* it dies */
			deaths--;
			rollback();
			h = NONE; got = NONE; mine = 0; l = 0;
			goto end_idle
		}
	:: atomic { !to_settle && deaths > 0 && h != NONE ->	/* the answer is lost: it calls again */
			deaths--;
			commit();
			got = NONE; mine = 0;
			goto end_idle
		}
	od
}

/* ------------------------------------------------------------ the scheduler */

/*
 * What others have locked is left for later (SKIP LOCKED). Looks that could
 * change nothing are not taken: they would only be repeated. Leases may run out,
 * and retries be due, at any time.
 */
#define lease_due(s)	(rows[s] != 0 && !locked[s] && !task_locked)
#define retry_due(s)	(was[s].timer && was[s].state == RETRY && !locked[s] && !task_locked)

/* expire_leases, first half: a row of tasker.leases whose time has come */
inline take_row()
{
	if
	:: lease_due(A) -> s = A
	:: lease_due(B) -> s = B
	:: lease_due(C) -> s = C
#ifdef FAILING
	:: lease_due(F) -> s = F
#endif
	fi;
	row_extended = (rows[s] == ROW(1));
	if :: rows[s] == (ROW(0) | ROW(1)) -> row_extended = 1 :: true fi;
	rows[s] = rows[s] & ~ROW(row_extended);
	in_hand = s
}

/* ..., second half: the step that it names, if the lease is over and nobody has locked it */
inline end_attempt()
{
	if
	:: locked[s] || task_locked
#ifndef NO_EXPIRE_CHECK
	:: !locked[s] && !task_locked && (now[s].state != IN_PROGRESS || now[s].extended != row_extended)
	:: !locked[s] && !task_locked && now[s].state == IN_PROGRESS && now[s].extended == row_extended ->
#else
	:: !locked[s] && !task_locked ->
#endif
		locked[s] = ME;
		task_locked = ME;
		if
		:: s != F && now[s].attempts < ATTEMPTS -> change(s, RETRY)
		:: else -> change(s, ERROR); failed = 1; ends = 1
		fi
	fi;
	later = (locked[s] != ME && was[s].state == IN_PROGRESS -> ROW(was[s].extended) : 0);
	look()
}

proctype Scheduler()
{
	LOCALS;
	unsigned s : 3;
	unsigned later : 2;			/* the row that is written instead */
	bit row_extended;

end_idle:
	if
	:: atomic { take_row() };
		atomic { end_attempt() };
		do
		:: settle()
		:: atomic { !to_settle ->
				rows[s] = rows[s] | later;
				in_hand = NONE;
				commit();
				break
			}
		od
	:: atomic {					/* look_at_steps */
			if
			:: retry_due(A) -> s = A
			:: retry_due(B) -> s = B
			:: retry_due(C) -> s = C
			fi;
			locked[s] = ME;
			task_locked = ME;
			now[s].timer = 0;
			change(s, ENQUEUED)
		};
		commit()
#ifndef NO_LOOK
	:: atomic {					/* look_at_tasks, when it matters */
			task_timer && !task_locked && open(task_was) &&
			!active(was[A].state) && !active(was[B].state) && !active(was[C].state) ->
			task_locked = ME;
			settled_state()
		};
		atomic {
			task_timer = 0;
			commit()
		}
#endif
	fi;
	atomic { s = 0; later = 0; row_extended = 0; goto end_idle }
}

/* ------------------------------------------------------------- an operator */

inline cancel_task()
{
	free(A) -> locked[A] = ME;
	free(B) -> locked[B] = ME;
	free(C) -> locked[C] = ME;
#ifdef FAILING
	free(F) -> locked[F] = ME;
#endif
	task_free -> task_locked = ME;
	if
	:: !ended(task_now) ->
		task_now = CANCELLED;
		for (i : 0 .. STEPS - 1) {
			if :: !ended(now[i].state) -> change(i, CANCELLED) :: else fi
		}
		i = 0
	:: else
	fi
}

inline resolve_step()
{
	free(C) -> locked[C] = ME;
	if
	:: !ended(task_was) && !ended(now[C].state) -> change(C, RESOLVED); may_complete = 1; ends = 1
	:: else
	fi;
	look()
}

proctype Operator()
{
	LOCALS;

	if
	:: atomic { cancel_task() }
	:: atomic { resolve_step() }
	fi;
	do
	:: settle()
	:: atomic { !to_settle -> commit(); break }
	od
}

/* When nothing can happen any more, the task is over, and nobody waits for a lock. */
proctype End()
{
	timeout ->
	assert(ended(task_was) || task_was == ERROR);
	assert(!task_locked && !locked[A] && !locked[B] && !locked[C])
}

init {
	atomic {
		now[A].state = ENQUEUED;
		now[A].hint = 1;
		COPY(was, now, A);
#ifdef CHAIN
		now[B].state = COMPLETE;
		now[C].parents = 1;
#else
		now[B].state = ENQUEUED;
		now[B].hint = 1;
		now[C].parents = 2;
#endif
		COPY(was, now, B);
		COPY(was, now, C);
#ifdef FAILING
		now[F].state = ENQUEUED;
		now[F].hint = 1;
		COPY(was, now, F);
#endif
		run Worker(0);
		run Worker(1);
		run Scheduler();
#ifdef OPERATOR
		run Operator();
#endif
		run End()
	}
}
