/*
 * guard.h
 *	  Whether this database is the one whose tasks are to run, or a copy of it.
 *
 *	  guard.c			the rule, and what asks it
 *	  guard_known.c		that it is armed is known to all sessions
 *	  guard_marker.c	what the data directory tells: marker files, the standby
 *	  adopt.c			making a copy the one that runs
 */
#ifndef TASKER_GUARD_H
#define TASKER_GUARD_H

#include "tasker.h"

#define GUARD_TOKEN_LENGTH	36

typedef enum GuardState
{
	GUARD_NEW,					/* nothing was defined in it yet */
	GUARD_ARMED,
	GUARD_DISARMED				/* a copy that was not adopted */
} GuardState;

typedef struct GuardStatus
{
	GuardState	state;
	const char *reason;			/* a clause that follows "because" */
	TimestampTz since;			/* 0: of a row that there is not */
	bool		by_rows;		/* its rows came by a dump or by replication */
} GuardStatus;

/* guard.c */
extern const char *guard_state_name(GuardState state);
extern GuardStatus guard_look(void);
extern GuardStatus guard_check(void);
extern void guard_refuse(const GuardStatus *status);
extern void guard_require_armed(void);
extern void guard_require_enabled(void);
extern void guard_arm_if_new(void);
extern void guard_arm(void);

/* guard_known.c */
extern void guard_init(void);
extern bool guard_is_armed(void);
extern bool guard_was_revoked(void);
extern void guard_changed(void);
extern uint32 guard_word(void);
extern void guard_remember(uint32 word, GuardState state);
extern bool guard_was_logged(void);
extern void guard_forget_database(Oid database);

/* guard_marker.c */
extern bool marker_is_there(const char *token);
extern void marker_write(const char *token);
extern bool standby_has_streamed(void);
extern bool standby_is_marked(void);
extern void standby_mark(void);

#endif							/* TASKER_GUARD_H */
