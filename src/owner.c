/*
 * owner.c
 *	  Who owns a task, what a role may do, and the functions that row-level
 *	  security asks.
 *
 * A role owns what it submits; members of the role act for it, as everywhere
 * in PostgreSQL. access_grants, kept by tasker.grant_access, gives levels over
 * other roles' tasks. A superuser may do everything.
 */
#include "tasker.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "guard.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/syscache.h"

typedef struct LevelName
{
	const char *name;
	AccessLevel level;
} LevelName;

static const LevelName levels[] = {
	{"viewer", ACCESS_VIEWER},
	{"worker", ACCESS_WORKER},
	{"submitter", ACCESS_SUBMITTER},
	{"operator", ACCESS_OPERATOR},
	{"admin", ACCESS_ADMIN},
};

static TaskerQuery find_owner = {
	.sql = "SELECT owner_id FROM tasker.owners WHERE role_oid = $1 AND role_name = $2",
	.args = {OIDOID, NAMEOID},
	.columns = {INT4OID},
};

/* ALTER ROLE ... RENAME: the role is what it was. */
static TaskerQuery rename_owner = {
	.sql = "UPDATE tasker.owners o SET role_name = $2 WHERE o.owner_id = ("
	"SELECT pg_catalog.max(w.owner_id) FROM tasker.owners w WHERE w.role_oid = $1 "
	"AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = w.role_name)) "
	"RETURNING o.owner_id",
	.args = {OIDOID, NAMEOID},
	.columns = {INT4OID},
};

static TaskerQuery add_owner = {
	.sql = "INSERT INTO tasker.owners (role_oid, role_name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
	.args = {OIDOID, NAMEOID},
};

static TaskerQuery same_name = {
	.sql = "SELECT FROM tasker.owners WHERE role_name = $1 LIMIT 1",
	.args = {NAMEOID},
};

static TaskerQuery owner_role = {
	.sql = "SELECT COALESCE(role_oid, 0::oid), role_name FROM tasker.owners WHERE owner_id = $1",
	.args = {INT4OID},
	.columns = {OIDOID, NAMEOID},
	.read_only = true,
};

static TaskerQuery task_owner = {
	.sql = "SELECT owner FROM tasker.tasks WHERE task_id = $1",
	.args = {INT8OID},
	.columns = {INT4OID},
	.read_only = true,
};

static TaskerQuery all_grants = {
	.sql = "SELECT role_name, level FROM tasker.access_grants",
	.columns = {NAMEOID, TEXTOID},
	.read_only = true,
};

/*
 * In a dump's copy the owner of the role's name is probably the role itself,
 * under the oid that it had at home. Until adopt() says so, a second owner
 * would not know the first one's idempotency keys.
 */
static void
check_mapped(Datum role_name)
{
	if (!guard_is_armed() && tasker_run(&same_name, &role_name, NULL) > 0)
		guard_require_armed();
}

/* The owner_id that stands for a role, made on first use. Inside a section. */
int
owner_id_for(Oid role)
{
	Datum		values[2];

	values[0] = ObjectIdGetDatum(role);
	values[1] = DirectFunctionCall1(namein, CStringGetDatum(GetUserNameFromId(role, false)));
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (tasker_run(&find_owner, values, NULL) == 1)
			return DatumGetInt32(tasker_value_notnull(0, 1));
		check_mapped(values[1]);
		if (tasker_run(&rename_owner, values, NULL) == 1)
			return DatumGetInt32(tasker_value_notnull(0, 1));
		tasker_run(&add_owner, values, NULL);
	}
}

/* Does the role still exist under the name it had? */
static bool
role_is(Oid role, Name name)
{
	char	   *current = GetUserNameFromId(role, true);

	return current != NULL && strcmp(current, NameStr(*name)) == 0;
}

/* The privileges on schema tasker. */
static Acl *
schema_acl(void)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID,
										ObjectIdGetDatum(get_namespace_oid("tasker", false)));
	bool		isnull;
	Datum		acl = SysCacheGetAttr(NAMESPACEOID, tuple, Anum_pg_namespace_nspacl, &isnull);
	Acl		   *result = isnull ? NULL : DatumGetAclPCopy(acl);

	ReleaseSysCache(tuple);
	return result;
}

/*
 * Does the role have the schema's USAGE itself, as grant_access gave it? That
 * goes with the role; its name, by which access_grants knows it, may have
 * become another role's.
 */
static bool
has_usage_itself(Acl *acl, Oid role)
{
	AclItem    *items = acl == NULL ? NULL : ACL_DAT(acl);

	for (int i = 0; items != NULL && i < ACL_NUM(acl); i++)
		if (items[i].ai_grantee == role && (ACLITEM_GET_PRIVS(items[i]) & ACL_USAGE) != 0)
			return true;
	return false;
}

/*
 * The levels that the role has, by itself or as a member, as a set of bits. Asked
 * once a section, whose statements do not change them.
 */
static int
access_levels(Oid role)
{
	static Oid	last_role = InvalidOid;
	static uint64 last_section = 0;
	static int	set;
	TaskerSection section;
	Acl		   *acl;
	uint64		n;

	tasker_enter(&section);
	if (last_role == role && last_section == tasker_section_number())
	{
		tasker_leave(&section);
		return set;
	}
	last_role = InvalidOid;
	set = 0;
	acl = schema_acl();
	n = tasker_run(&all_grants, NULL, NULL);
	for (uint64 row = 0; row < n; row++)
	{
		Oid			granted = get_role_oid(NameStr(*DatumGetName(tasker_value_notnull(row, 1))), true);
		char	   *name = TextDatumGetCString(tasker_value_notnull(row, 2));

		if (!OidIsValid(granted) || !has_privs_of_role(role, granted) || !has_usage_itself(acl, granted))
			continue;
		for (int i = 0; i < lengthof(levels); i++)
			if (strcmp(levels[i].name, name) == 0)
				set |= 1 << levels[i].level;
	}
	last_role = role;
	last_section = tasker_section_number();
	tasker_leave(&section);
	return set;
}

/* The highest of them. */
AccessLevel
access_level(Oid role)
{
	int			set;

	if (superuser_arg(role))
		return ACCESS_ADMIN;
	set = access_levels(role);
	for (int level = ACCESS_ADMIN; level > ACCESS_NONE; level--)
		if (set & (1 << level))
			return (AccessLevel) level;
	return ACCESS_NONE;
}

/* May the role do the work of other roles' steps? */
bool
may_work_for_all(Oid role)
{
	return superuser_arg(role) ||
		(access_levels(role) & (1 << ACCESS_WORKER | 1 << ACCESS_OPERATOR | 1 << ACCESS_ADMIN)) != 0;
}

/* The role that the owner stands for, if it is there still. */
static Oid
role_of_owner(int owner)
{
	TaskerSection section;
	Datum		values[1] = {Int32GetDatum(owner)};
	Oid			role = InvalidOid;

	tasker_enter(&section);
	if (tasker_run(&owner_role, values, NULL) == 1 &&
		role_is(DatumGetObjectId(tasker_value_notnull(0, 1)), DatumGetName(tasker_value_notnull(0, 2))))
		role = DatumGetObjectId(tasker_value_notnull(0, 1));
	tasker_leave(&section);
	return role;
}

/* May the caller act for the owner? */
static bool
acts_for(Oid caller, int owner)
{
	Oid			role = role_of_owner(owner);

	return OidIsValid(role) && has_privs_of_role(caller, role);
}

/*
 * The last answers, good for one statement of one role: row-level security
 * asks the same of many rows in a row.
 */
typedef struct Asked
{
	TimestampTz statement;
	Oid			caller;
	int			owner;
	bool		answer;
	int64		task_id;
	int			task_owner;
	int			definer;
	bool		definer_answer;
} Asked;

static Asked asked;

static void
forget_other_statements(Oid caller)
{
	if (asked.statement == GetCurrentStatementStartTimestamp() && asked.caller == caller)
		return;
	asked.statement = GetCurrentStatementStartTimestamp();
	asked.caller = caller;
	asked.owner = 0;
	asked.task_owner = 0;
	asked.definer = 0;
}

/* May the caller see what belongs to the owner? */
bool
may_see_owner(Oid caller, int owner)
{
	AccessLevel level;

	if (superuser_arg(caller))
		return true;
	forget_other_statements(caller);
	if (asked.owner != owner)
	{
		level = access_level(caller);
		asked.answer = level == ACCESS_VIEWER || level >= ACCESS_OPERATOR || acts_for(caller, owner);
		asked.owner = owner;
	}
	return asked.answer;
}

/* 0 if there is no such task */
static int
owner_of_task(int64 task_id)
{
	TaskerSection section;
	Datum		values[1] = {Int64GetDatum(task_id)};
	int			owner = 0;

	tasker_enter(&section);
	if (tasker_run(&task_owner, values, NULL) == 1)
		owner = DatumGetInt32(tasker_value_notnull(0, 1));
	tasker_leave(&section);
	return owner;
}

/* Another role's task is as unknown as one that does not exist. */
static void
unknown_task(int64 task_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_UNKNOWN_TASK),
			 errmsg("task " INT64_FORMAT " does not exist", task_id),
			 errdetail("There is no task of this id that role \"%s\" may see.",
					   GetUserNameFromId(tasker_caller(), false)),
			 errhint("tasker.task_status lists the tasks that you may see.")));
}

/* Refuse the caller unless it may see the task. */
void
check_may_see(int64 task_id)
{
	int			owner = owner_of_task(task_id);

	if (owner == 0 || !may_see_owner(tasker_caller(), owner))
		unknown_task(task_id);
}

/* Refuse the caller unless it may change the task. */
void
check_may_operate(int64 task_id)
{
	Oid			caller = tasker_caller();
	int			owner = owner_of_task(task_id);

	if (owner == 0 || !may_see_owner(caller, owner))
		unknown_task(task_id);
	if (access_level(caller) < ACCESS_OPERATOR && !acts_for(caller, owner))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("permission denied for task " INT64_FORMAT, task_id),
				 errdetail("Role \"%s\" may see the task but does not own it.",
						   GetUserNameFromId(caller, false)),
				 errhint("Its owner, a role with level operator, or a superuser can do this.")));
}

/* Refuse the caller unless it may govern tasker as a whole. */
void
check_admin(const char *what)
{
	if (access_level(GetUserId()) < ACCESS_ADMIN)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("permission denied to %s tasker", what),
				 errdetail("Role \"%s\" does not have level admin.", GetUserNameFromId(GetUserId(), false)),
				 errhint("A superuser can do it.")));
}

PG_FUNCTION_INFO_V1(tasker_may_see_owner);
PG_FUNCTION_INFO_V1(tasker_may_serve_owner);
PG_FUNCTION_INFO_V1(tasker_may_see_task);
PG_FUNCTION_INFO_V1(tasker_may_see_definition);
PG_FUNCTION_INFO_V1(tasker_may_see_queues);
PG_FUNCTION_INFO_V1(tasker_access_level);

/* may_see_owner(owner int): for the policy on tables with an owner */
Datum
tasker_may_see_owner(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(may_see_owner(GetUserId(), PG_GETARG_INT32(0)));
}

/* may_serve_owner(owner int): for what workers may know of queues */
Datum
tasker_may_serve_owner(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(may_work_for_all(GetUserId()) || may_see_owner(GetUserId(), PG_GETARG_INT32(0)));
}

/* may_see_task(task_id bigint): for the policies on tables of a task's parts */
Datum
tasker_may_see_task(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	Oid			caller = GetUserId();

	if (superuser_arg(caller))
		PG_RETURN_BOOL(true);
	forget_other_statements(caller);
	if (asked.task_owner == 0 || asked.task_id != task_id)
	{
		asked.task_owner = owner_of_task(task_id);
		asked.task_id = task_id;
	}
	PG_RETURN_BOOL(asked.task_owner != 0 && may_see_owner(caller, asked.task_owner));
}

/* may_see_definition(owner int): for the policy on definitions; an admin's are everybody's */
Datum
tasker_may_see_definition(PG_FUNCTION_ARGS)
{
	int			owner = PG_GETARG_INT32(0);
	Oid			caller = GetUserId();
	Oid			role;

	if (may_see_owner(caller, owner))
		PG_RETURN_BOOL(true);
	if (asked.definer != owner)
	{
		role = role_of_owner(owner);
		asked.definer_answer = OidIsValid(role) && access_level(role) >= ACCESS_ADMIN;
		asked.definer = owner;
	}
	PG_RETURN_BOOL(asked.definer_answer);
}

/* may_see_queues(): for the policy on queues */
Datum
tasker_may_see_queues(PG_FUNCTION_ARGS)
{
	Oid			caller = GetUserId();

	PG_RETURN_BOOL(may_work_for_all(caller) || access_level(caller) == ACCESS_VIEWER);
}

/* access_level(): the caller's level, or null */
Datum
tasker_access_level(PG_FUNCTION_ARGS)
{
	AccessLevel level = access_level(tasker_caller());

	for (int i = 0; i < lengthof(levels); i++)
		if (levels[i].level == level)
			PG_RETURN_TEXT_P(cstring_to_text(levels[i].name));
	PG_RETURN_NULL();
}
