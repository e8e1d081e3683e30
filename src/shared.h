/*
 * shared.h
 *	  tasker's shared memory: the scheduler of each database, the executors and
 *	  what each is doing, and the waking of both when a transaction commits.
 *
 * It is small enough to be had without shared_preload_libraries, from what the
 * server keeps in reserve.
 */
#ifndef TASKER_SHARED_H
#define TASKER_SHARED_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "datatype/timestamp.h"

#define TASKER_MAX_DATABASES	64
#define TASKER_MAX_EXECUTORS	128
#define TASKER_MAX_WAITERS		256
#define TASKER_WAITER_LANES		8
#define TASKER_MAX_LANES		512
#define TASKER_MAX_COUNTED		128

typedef struct SchedulerSlot
{
	Oid			database;		/* InvalidOid: free */
	int			pid;			/* 0: asked for, or gone */
	Latch	   *latch;
	bool		stop;			/* leave, and do not come back by yourself */
	bool		asked;			/* since its last look somebody asked for it */
	bool		aside;			/* leave; a command wants the database for
								 * itself */
	bool		connecting;		/* began to connect; if it is gone, it could
								 * not */
	bool		queues_changed; /* somebody else wants to be told of queues */
	bool		notifies;		/* some queue is to be told of (LaneSlot) */
	TimestampTz next_due;		/* when it will look by itself */
	TimestampTz came;			/* the first time at which something is due,
								 * of all noted since its last look began */
} SchedulerSlot;

typedef enum ExecutorState
{
	EXECUTOR_FREE,
	EXECUTOR_STARTING,			/* registered with the postmaster */
	EXECUTOR_IDLE,				/* connected, waits on its latch */
	EXECUTOR_BUSY
} ExecutorState;

typedef struct ExecutorSlot
{
	ExecutorState state;
	Oid			database;
	Oid			role;
	int			owner;			/* owners.owner_id; it serves lane -owner */
	int			pid;
	Latch	   *latch;
	bool		stop;
	bool		give_way;		/* another role has none */
	bool		connected;		/* has been a session of its role */
	bool		interrupted;	/* its task was cancelled under it */
	TimestampTz started;
	TimestampTz since;			/* start of the step, or of the state */
	pg_atomic_uint64 task_id;	/* what it runs now, 0 between steps */
	pg_atomic_uint32 step_id;
} ExecutorSlot;

/* A session whose claim waits for work. */
typedef struct WaiterSlot
{
	Oid			database;		/* InvalidOid: free */
	Latch	   *latch;
	int			nlanes;			/* more than fit: every lane */
	int			lanes[TASKER_WAITER_LANES];
} WaiterSlot;

/* Where in its lane a row of ready_queue is. */
typedef struct LaneKey
{
	int			rank;
	int			step_id;
	int64		task_id;
} LaneKey;

/* From one key to before another one. */
typedef struct LaneRange
{
	LaneKey		from;
	LaneKey		to;
} LaneRange;

#define TASKER_LANE_RANGES	8

/* Some of them in order, apart from each other (lane_ranges.c). */
typedef struct LaneRanges
{
	int			n;
	LaneRange	range[TASKER_LANE_RANGES + 1];	/* one more while it is added */
} LaneRanges;

/* A lane of ready_queue that somebody has taken from, or listens to (lanes.c). */
typedef struct LaneSlot
{
	Oid			database;		/* InvalidOid: free */
	int			lane;
	int			owner;			/* whose rows of it; 0: everybody's */
	bool		watched;		/* the scheduler sends a NOTIFY for it ... */
	bool		pending;		/* ... which is due */
	pg_atomic_uint64 served_at; /* the last claim, a TimestampTz */
	LaneRanges	rows;			/* there is nothing to take elsewhere, ... */
	TimestampTz looked_at;		/* ... says a look at this time; 0: unknown */
	int64		took;			/* µs that the last one took which trusted no
								 * other */
	uint32		version;		/* how often rows came, or it was forgotten */
	LaneRanges	came;			/* where rows came ... */
	uint32		came_since;		/* ... since this version */
} LaneSlot;

/* A look at a lane, where there may be rows. */
typedef struct LaneLook
{
	int			lane;
	int			owner;
	bool		anew;			/* it trusts no other one */
	LaneRanges	rows;
	TimestampTz looked_at;
	uint32		version;
} LaneLook;

/* How many tasks a role has open, at most: none is taken off before it is counted again. */
typedef struct OpenTasks
{
	Oid			database;		/* InvalidOid: free */
	int			owner;
	int64		at_most;
	int64		created;		/* since the entry was made */
	TimestampTz counted_at;
	int64		took;			/* µs that counting took */
} OpenTasks;

/* What is known of a database's being the original (guard.c). */
typedef struct GuardSlot
{
	Oid			database;		/* InvalidOid: free */
	bool		logged;			/* that it is disarmed */
	pg_atomic_uint32 word;		/* odd: it is armed */
} GuardSlot;

typedef struct TaskerShared
{
	LWLock		lock;			/* protects all but the atomics */
	Latch	   *launcher_latch;
	int			launcher_pid;
	SchedulerSlot schedulers[TASKER_MAX_DATABASES];
	ExecutorSlot executors[TASKER_MAX_EXECUTORS];
	WaiterSlot	waiters[TASKER_MAX_WAITERS];
	LaneSlot	lanes[TASKER_MAX_LANES];
	int			nlanes;			/* of them were ever in use, the first ones */
	OpenTasks	open_tasks[TASKER_MAX_COUNTED];
	GuardSlot	guards[TASKER_MAX_DATABASES];
} TaskerShared;

extern void tasker_shared_init(void);
extern TaskerShared *tasker_shared(void);
extern SchedulerSlot *scheduler_slot(Oid database);
extern SchedulerSlot *ask_for_scheduler(Oid database);

/* What the transaction, if it commits, will tell whom. */
extern void wake_lane_at_commit(int lane, LaneKey row);
extern void wake_whole_lane_at_commit(int lane);
extern void add_own_lane_ranges(LaneRanges *ranges, int lane);
extern void note_all_taken(void);
extern void note_rows_taken(int lane, LaneKey first, LaneKey last);
extern void wake_timer_at_commit(TimestampTz due);
extern void wake_all_at_commit(void);
extern void interrupt_task_at_commit(int64 task_id);
extern void wake_launcher_at_commit(void);
extern void reload_queues_at_commit(void);

extern void wake_scheduler(Oid database);
extern int	executors_of(int owner, int *all);
extern void ask_for_executor(int lane);

/* A claim that waits: set this session's latch when one of the lanes gets work. */
extern bool begin_waiting(const int *lanes, int nlanes);
extern void end_waiting(void);

/* lane_ranges.c */
extern LaneRange lane_range(LaneKey first, LaneKey last);
extern void add_lane_range(LaneRanges *ranges, const LaneRange *added);
extern void add_lane_ranges(LaneRanges *ranges, const LaneRanges *added);
extern void cut_lane_ranges(LaneRanges *ranges, const LaneKey *key);
extern LaneKey first_of_lane_ranges(const LaneRanges *ranges);

/* lanes.c */
extern const LaneKey lane_end;
extern const LaneRange whole_lane;
extern LaneKey lane_key(int rank, int64 task_id, int step_id);
extern int	lane_key_compare(const LaneKey *a, const LaneKey *b);
extern LaneLook look_at_lane(int lane, int owner);
extern bool lane_may_begin_before(int lane, int owner, LaneKey key);
extern LaneLook *look_at_lanes_of_owners(int *n);
extern void lane_looked_at(const LaneLook *look, LaneKey last);
extern void lane_got_rows(int lane, const LaneRanges *rows);
extern void forget_lane(int lane);
extern void queue_served(int queue_id);
extern TimestampTz queue_served_at(int queue_id);
extern void set_watched_queues(const Datum *queue_ids, int n);
extern void notify_lane(int lane);
extern int	next_queue_to_notify(void);

#endif							/* TASKER_SHARED_H */
