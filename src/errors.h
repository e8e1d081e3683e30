/*
 * errors.h
 *	  tasker's own SQLSTATEs: class TK, one for each refusal that a caller may
 *	  want to tell apart.
 */
#ifndef TASKER_ERRORS_H
#define TASKER_ERRORS_H

#include "utils/elog.h"

/* TK1xx: a definition is refused */
#define ERRCODE_TASKER_BAD_DEFINITION		MAKE_SQLSTATE('T', 'K', '1', '0', '0')
#define ERRCODE_TASKER_UNKNOWN_KEY			MAKE_SQLSTATE('T', 'K', '1', '0', '1')
#define ERRCODE_TASKER_MISSING_STEP			MAKE_SQLSTATE('T', 'K', '1', '0', '2')
#define ERRCODE_TASKER_DUPLICATE_STEP		MAKE_SQLSTATE('T', 'K', '1', '0', '3')
#define ERRCODE_TASKER_UNKNOWN_DEPENDENCY	MAKE_SQLSTATE('T', 'K', '1', '0', '4')
#define ERRCODE_TASKER_SELF_DEPENDENCY		MAKE_SQLSTATE('T', 'K', '1', '0', '5')
#define ERRCODE_TASKER_CYCLE				MAKE_SQLSTATE('T', 'K', '1', '0', '6')
#define ERRCODE_TASKER_NO_FUNCTION			MAKE_SQLSTATE('T', 'K', '1', '0', '7')
#define ERRCODE_TASKER_BAD_FUNCTION			MAKE_SQLSTATE('T', 'K', '1', '0', '8')
#define ERRCODE_TASKER_FUNCTION_ACCESS		MAKE_SQLSTATE('T', 'K', '1', '0', '9')
#define ERRCODE_TASKER_BAD_INTERVAL			MAKE_SQLSTATE('T', 'K', '1', '1', '0')
#define ERRCODE_TASKER_BAD_NUMBER			MAKE_SQLSTATE('T', 'K', '1', '1', '1')
#define ERRCODE_TASKER_TOO_MANY_STEPS		MAKE_SQLSTATE('T', 'K', '1', '1', '2')
#define ERRCODE_TASKER_VERSION_EXISTS		MAKE_SQLSTATE('T', 'K', '1', '1', '3')
#define ERRCODE_TASKER_BAD_NAME				MAKE_SQLSTATE('T', 'K', '1', '1', '4')
#define ERRCODE_TASKER_BAD_TYPE				MAKE_SQLSTATE('T', 'K', '1', '1', '5')
#define ERRCODE_TASKER_BAD_HANDLER			MAKE_SQLSTATE('T', 'K', '1', '1', '6')
#define ERRCODE_TASKER_BAD_SQL				MAKE_SQLSTATE('T', 'K', '1', '1', '7')
#define ERRCODE_TASKER_TOO_MANY_EDGES		MAKE_SQLSTATE('T', 'K', '1', '1', '8')
#define ERRCODE_TASKER_DUPLICATE_DEPENDENCY MAKE_SQLSTATE('T', 'K', '1', '1', '9')
#define ERRCODE_TASKER_BAD_RETRY			MAKE_SQLSTATE('T', 'K', '1', '2', '0')
#define ERRCODE_TASKER_TOO_DEEP				MAKE_SQLSTATE('T', 'K', '1', '2', '1')

/* TK2xx: a call is refused */
#define ERRCODE_TASKER_UNKNOWN_TASK			MAKE_SQLSTATE('T', 'K', '2', '0', '0')
#define ERRCODE_TASKER_UNKNOWN_NAMED_TASK	MAKE_SQLSTATE('T', 'K', '2', '0', '1')
#define ERRCODE_TASKER_UNKNOWN_STEP			MAKE_SQLSTATE('T', 'K', '2', '0', '2')
#define ERRCODE_TASKER_IDEMPOTENCY			MAKE_SQLSTATE('T', 'K', '2', '0', '3')
#define ERRCODE_TASKER_BAD_ARGUMENT			MAKE_SQLSTATE('T', 'K', '2', '0', '4')
#define ERRCODE_TASKER_TOO_LARGE			MAKE_SQLSTATE('T', 'K', '2', '0', '5')
#define ERRCODE_TASKER_BAD_SUBMITTER		MAKE_SQLSTATE('T', 'K', '2', '0', '6')
#define ERRCODE_TASKER_UNKNOWN_QUEUE		MAKE_SQLSTATE('T', 'K', '2', '0', '7')
#define ERRCODE_TASKER_TOO_MANY_TASKS		MAKE_SQLSTATE('T', 'K', '2', '0', '8')

/* TK3xx: a change is refused */
#define ERRCODE_TASKER_ILLEGAL_TRANSITION	MAKE_SQLSTATE('T', 'K', '3', '0', '0')
#define ERRCODE_TASKER_KEY_CHANGED			MAKE_SQLSTATE('T', 'K', '3', '0', '1')
#define ERRCODE_TASKER_NOT_FINISHED			MAKE_SQLSTATE('T', 'K', '3', '0', '2')
#define ERRCODE_TASKER_EDGE_CYCLE			MAKE_SQLSTATE('T', 'K', '3', '0', '3')
#define ERRCODE_TASKER_EDGE_LATE			MAKE_SQLSTATE('T', 'K', '3', '0', '4')
#define ERRCODE_TASKER_IMMUTABLE			MAKE_SQLSTATE('T', 'K', '3', '0', '5')
#define ERRCODE_TASKER_IN_USE				MAKE_SQLSTATE('T', 'K', '3', '0', '6')

/* TK4xx: an attempt at a step failed; 410 and 411 are for handlers to raise */
#define ERRCODE_TASKER_RESULT_TOO_LARGE		MAKE_SQLSTATE('T', 'K', '4', '0', '0')
#define ERRCODE_TASKER_BAD_RESULT			MAKE_SQLSTATE('T', 'K', '4', '0', '1')
#define ERRCODE_TASKER_STEP_TIMEOUT			MAKE_SQLSTATE('T', 'K', '4', '0', '2')
#define ERRCODE_TASKER_OWNER_UNUSABLE		MAKE_SQLSTATE('T', 'K', '4', '0', '3')
#define ERRCODE_TASKER_HANDLER_GONE			MAKE_SQLSTATE('T', 'K', '4', '0', '4')
#define ERRCODE_TASKER_INPUT_TOO_LARGE		MAKE_SQLSTATE('T', 'K', '4', '0', '6')
#define ERRCODE_TASKER_DO_NOT_RETRY			MAKE_SQLSTATE('T', 'K', '4', '1', '0')
#define ERRCODE_TASKER_RETRY_AFTER			MAKE_SQLSTATE('T', 'K', '4', '1', '1')

/* TK42x: a worker's call is refused, or its lease ran out */
#define ERRCODE_TASKER_STALE_LEASE			MAKE_SQLSTATE('T', 'K', '4', '2', '0')
#define ERRCODE_TASKER_LEASE_EXPIRED		MAKE_SQLSTATE('T', 'K', '4', '2', '1')

/* TK43x: the process that ran the step ended under it */
#define ERRCODE_TASKER_CUT_OFF				MAKE_SQLSTATE('T', 'K', '4', '3', '0')

/* TK5xx: the caller may not */
#define ERRCODE_TASKER_ACCESS				MAKE_SQLSTATE('T', 'K', '5', '0', '0')

/* TK6xx: the installation can not */
#define ERRCODE_TASKER_NO_WORKER			MAKE_SQLSTATE('T', 'K', '6', '0', '0')
#define ERRCODE_TASKER_DISABLED				MAKE_SQLSTATE('T', 'K', '6', '0', '1')
#define ERRCODE_TASKER_DISARMED				MAKE_SQLSTATE('T', 'K', '6', '0', '2')
#define ERRCODE_TASKER_VERSION				MAKE_SQLSTATE('T', 'K', '6', '0', '3')
#define ERRCODE_TASKER_INTERNAL				MAKE_SQLSTATE('T', 'K', '6', '9', '9')

#endif							/* TASKER_ERRORS_H */
