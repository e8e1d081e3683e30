/*
 * unusable.c
 *	  Why a role can have no session in which its steps run, and what to do
 *	  about it, as a table.
 *
 * Asked before an executor is started and before each of its batches, by
 * explain_step, and by the doctor. It needs a transaction.
 */
#include "unusable.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

/* In message the role is %s, in cure %1$s, and the database %2$s. */
struct Unusable
{
	const char *message;
	const char *detail;
	const char *cure;
	bool		curable;		/* the task can be retried then */
};

static const Unusable unknown = {
	"the task's owner is unknown",
	"Its row of tasker.owners is missing.",
	"create the task anew",
	false
};

static const Unusable another = {
	"role \"%s\" is not the one that submitted the task",
	"A role of this name was created later.",
	"create the task anew",
	false
};

static const Unusable dropped = {
	"role \"%s\", which submitted the task, does not exist",
	"It was dropped.",
	"create the task anew as another role",
	false
};

static const Unusable no_login = {
	"role \"%s\", which submitted the task, may not log in",
	"It has NOLOGIN, and steps run in a session of their submitter.",
	"ALTER ROLE %1$s LOGIN",
	true
};

static const Unusable is_superuser = {
	"role \"%s\", which submitted the task, is a superuser",
	"tasker.allow_superuser_steps is off.",
	"ALTER ROLE %1$s NOSUPERUSER, or set tasker.allow_superuser_steps on",
	true
};

static const Unusable no_connect = {
	"role \"%s\", which submitted the task, may not connect to this database",
	"It has no CONNECT privilege on it.",
	"GRANT CONNECT ON DATABASE %2$s TO %1$s",
	true
};

/* Why the role can have no session here, or NULL. */
const Unusable *
role_unusable(Oid role)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		may_login;

	if (!HeapTupleIsValid(tuple))
		return &dropped;
	may_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);
	if (!may_login)
		return &no_login;
	if (superuser_arg(role) && !tasker_allow_superuser_steps)
		return &is_superuser;
	if (tasker_database_aclcheck(MyDatabaseId, role) != ACLCHECK_OK)
		return &no_connect;
	return NULL;
}

/*
 * The same of an owner, who must be the role that it was by oid and by name,
 * unless the name has changed and no other role has it. Without a name it is
 * one that has no row in tasker.owners.
 */
const Unusable *
owner_unusable(Oid role, const char *name)
{
	const char *current = GetUserNameFromId(role, true);

	if (name == NULL)
		return &unknown;
	if (current != NULL && strcmp(current, name) != 0 && OidIsValid(get_role_oid(name, true)))
		return &another;
	return role_unusable(role);
}

/* What the role is called now, if it is the one that was meant. */
static const char *
shown_name(const Unusable *why, Oid role, const char *name)
{
	const char *current = GetUserNameFromId(role, true);

	if (name == NULL)
		return "";
	return current == NULL || why == &another ? name : current;
}

char *
unusable_message(const Unusable *why, Oid role, const char *name)
{
	return psprintf(why->message, shown_name(why, role, name));
}

/* What to do, as a clause. */
char *
unusable_cure(const Unusable *why, Oid role, const char *name)
{
	return psprintf(why->cure, quote_identifier(shown_name(why, role, name)),
					quote_identifier(get_database_name(MyDatabaseId)));
}

/* The error to record with steps that can not run. */
ErrorData *
unusable_error(const Unusable *why, Oid role, const char *name)
{
	ErrorData  *error = palloc0(sizeof(ErrorData));
	char	   *cure = unusable_cure(why, role, name);

	cure[0] = pg_toupper((unsigned char) cure[0]);
	error->sqlerrcode = ERRCODE_TASKER_OWNER_UNUSABLE;
	error->message = unusable_message(why, role, name);
	error->detail = pstrdup(why->detail);
	error->hint = psprintf("%s%s.", cure, why->curable ? ", then tasker.retry_task" : "");
	return error;
}
