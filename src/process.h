/*
 * process.h
 *	  tasker's background processes, and what they share.
 */
#ifndef TASKER_PROCESS_H
#define TASKER_PROCESS_H

#include "tasker.h"

#include "postmaster/bgworker.h"
#include "shared.h"

/* process.c */
extern int	process_begin(Oid database, Oid role);
extern void process_check(void);
extern bool process_wait(long ms);
extern void process_pause(long ms);
extern void process_begin_transaction(void);
extern void process_commit(void);
extern void process_abort(void);

/* scheduler.c, executor.c, launcher.c */
extern bool register_scheduler(Oid database);
extern BackgroundWorkerHandle *register_executor(int slot);
extern void launcher_init(void);

/* staffing.c */
extern void reap_executors(void);
extern void leave_lanes_alone(List *lanes);
extern bool serve_lanes(int *refusals);
extern void stop_executors(void);

/* lifecycle.c */
extern void lifecycle_init(void);

#endif							/* TASKER_PROCESS_H */
