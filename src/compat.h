/*
 * compat.h
 *	  What differs between PostgreSQL 13 and 18, in one place. Nothing else in
 *	  src/ looks at PG_VERSION_NUM.
 */
#ifndef TASKER_COMPAT_H
#define TASKER_COMPAT_H

#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/guc.h"

/* 16 folded the pg_*_aclcheck functions into one. */
#if PG_VERSION_NUM < 160000
#define tasker_function_aclcheck(oid, role) pg_proc_aclcheck(oid, role, ACL_EXECUTE)
#define tasker_schema_aclcheck(oid, role) pg_namespace_aclcheck(oid, role, ACL_USAGE)
#define tasker_database_aclcheck(oid, role) pg_database_aclcheck(oid, role, ACL_CONNECT)
#else
#define tasker_function_aclcheck(oid, role) object_aclcheck(ProcedureRelationId, oid, role, ACL_EXECUTE)
#define tasker_schema_aclcheck(oid, role) object_aclcheck(NamespaceRelationId, oid, role, ACL_USAGE)
#define tasker_database_aclcheck(oid, role) object_aclcheck(DatabaseRelationId, oid, role, ACL_CONNECT)
#endif

/* 16 told it about the triggers of partitions. */
#if PG_VERSION_NUM < 160000
#define tasker_trigger_always(relation, name) \
	EnableDisableTrigger(relation, name, TRIGGER_FIRES_ALWAYS, false, ShareRowExclusiveLock)
#else
#define tasker_trigger_always(relation, name) \
	EnableDisableTrigger(relation, name, InvalidOid, TRIGGER_FIRES_ALWAYS, false, false, ShareRowExclusiveLock)
#endif

/* 15 renamed it and made it refuse the SETs it used to warn about. */
#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/*
 * 15 introduced the common opening of a set-returning function. The rows are
 * what the caller expects, be they of one column or of many.
 */
#if PG_VERSION_NUM >= 150000
#define tasker_begin_srf(fcinfo) InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC)
#else
extern void tasker_begin_srf(FunctionCallInfo fcinfo);
#endif

/* 14 has a horizon for each kind of table. */
#if PG_VERSION_NUM >= 140000
#define tasker_oldest_xmin(relation) GetOldestNonRemovableTransactionId(relation)
#else
#define tasker_oldest_xmin(relation) GetOldestXmin(relation, PROCARRAY_FLAGS_VACUUM)
#endif

/* 15 cured pg_dump of a crash, see version.c. */
#define TASKER_LEAVES_NEED_PRIVILEGES (PG_VERSION_NUM < 150000)

/* 15 has shared memory asked for in a hook. */
extern void tasker_request_shmem(Size size);

/* 14 told utility commands whether they may scribble on the tree. */
#if PG_VERSION_NUM >= 140000
#define PROCESS_UTILITY_PARAMETERS \
	PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context, \
	ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion
#define PROCESS_UTILITY_ARGUMENTS \
	pstmt, query, read_only_tree, context, params, environment, dest, completion
#else
#define PROCESS_UTILITY_PARAMETERS \
	PlannedStmt *pstmt, const char *query, ProcessUtilityContext context, \
	ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion
#define PROCESS_UTILITY_ARGUMENTS \
	pstmt, query, context, params, environment, dest, completion
#endif

#endif							/* TASKER_COMPAT_H */
