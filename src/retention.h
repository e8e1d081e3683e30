/*
 * retention.h
 *	  Removing tasks that ended long ago.
 */
#ifndef TASKER_RETENTION_H
#define TASKER_RETENTION_H

#include "tasker.h"

/* What a piece of the work came to. */
typedef struct Expired
{
	int			tasks;			/* that are gone */
	TimestampTz due;			/* when there is more to do; DT_NOEND: unknown */
	TimestampTz reached;		/* the last end of a task looked at; 0: none */
} Expired;

extern Expired expire_some(TimestampTz now, TimestampTz before, int max_tasks);
extern bool expire_due(TimestampTz now);
extern TimestampTz retention_turn(void);

#endif							/* TASKER_RETENTION_H */
