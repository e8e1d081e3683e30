/*
 * creation.h
 *	  What create_task and create_tasks are asked for.
 */
#ifndef TASKER_CREATION_H
#define TASKER_CREATION_H

#include "definition.h"

/* Arguments that are kept with each task as they are. */
#define COMMON					6

/* What a call asks for. The first three are the same for all of its tasks. */
typedef struct Request
{
	text	   *name;
	text	   *namespace;
	text	   *version;		/* NULL: the default one */
	int			n;
	DatumList	contexts;
	DatumList	keys;			/* empty: without */
	int			priority;
	TimestampTz start_at;		/* 0: at once */
	Datum		common[COMMON]; /* correlation_id, tags, initiator,
								 * source_system, reason, traceparent */
	bool		common_null[COMMON];
} Request;

/* creation_request.c */
extern void read_request(FunctionCallInfo fcinfo, Request *request);
extern void read_requests(FunctionCallInfo fcinfo, Request *request);
extern void check_request(Request *request);

#endif							/* TASKER_CREATION_H */
