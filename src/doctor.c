/*
 * doctor.c
 *	  doctor(): what is wrong with an installation, and what to do about it.
 *
 * A list of questions, most of them statements, each of which has a row for
 * everything that is wrong, and none when nothing is. Called from SQL only.
 */
#include "tasker.h"

#include "catalog/pg_type.h"
#include "explain.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "replication/logicallauncher.h"
#include "shared.h"
#include "unusable.h"
#include "utils/guc.h"
#include "utils/tuplestore.h"
#include "version.h"

/* What a statement answers: detail and hint. */
#define ANSWER	.columns = {TEXTOID, TEXTOID}, .read_only = true

typedef struct Question
{
	const char *problem;
	TaskerQuery query;
	bool		of_all;			/* reads whole tables, and calls nothing of
								 * tasker's that has plans */
} Question;

static Question questions[] = {
	/* ------------------------------------------------ what runs nothing */
	{"this database is disarmed", {
			.sql = "SELECT g.reason, 'If the original does not run its tasks any more: SELECT * FROM tasker.adopt().' "
			"FROM tasker.guard() g WHERE g.state = 'disarmed' AND NOT pg_catalog.pg_is_in_recovery()",
			ANSWER
	}},
	{"tasker is switched off", {
			.sql = "SELECT 'tasker.enabled is off on this server.', 'ALTER SYSTEM SET tasker.enabled = on, and reload.' "
			"WHERE NOT pg_catalog.current_setting('tasker.enabled')::boolean",
			ANSWER
	}},
	{"no scheduler runs", {
			.sql = "SELECT 'Nothing is retried, nothing runs in the database, nobody notices that leases ran out.', "
			"'Put tasker into shared_preload_libraries, or SELECT tasker.start(); see whether the server has a worker left.' "
			"WHERE tasker.scheduler_pid() IS NULL AND NOT pg_catalog.pg_is_in_recovery()",
			ANSWER
	}},
	{"tasker is not preloaded", {
			.sql = "SELECT 'After the next restart of the server nothing runs until tasker.start().', "
			"'Put tasker into shared_preload_libraries, and restart the server when it suits.' "
			"WHERE pg_catalog.current_setting('shared_preload_libraries') !~ '\\mtasker\\M'",
			ANSWER
	}},
	{"another version of tasker is installed", {
			.sql = "SELECT pg_catalog.format('The extension is version %s, the installed files are version %s.', "
			"a.installed_version, a.default_version), 'Restart the server, then ALTER EXTENSION tasker UPDATE in each database.' "
			"FROM pg_catalog.pg_available_extensions a WHERE a.name = 'tasker' AND a.installed_version <> a.default_version",
			ANSWER
	}},
	{"a trigger is not ALWAYS on", {
			.sql = "SELECT pg_catalog.format('Trigger %I of table %s.', g.tgname, g.tgrelid::regclass), "
			"'A restore with --disable-triggers leaves it so: SELECT * FROM tasker.adopt() puts it right.' "
			"FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc f ON f.oid = g.tgfoid "
			"WHERE f.pronamespace = 'tasker'::regnamespace AND NOT g.tgisinternal AND g.tgenabled <> 'A' "
			"ORDER BY g.tgrelid::regclass::text, g.tgname",
			ANSWER
	}},

	/* ------------------------------------------------ work that is stuck */
	{"nobody runs the ready steps of a role", {
			.sql = "SELECT tasker.explain_step(f.task_id, f.step_id), pg_catalog.format('SELECT tasker.explain_step(%s, %s).', f.task_id, f.step_id) "
			"FROM (SELECT DISTINCT ON (q.lane) q.lane, q.task_id, q.step_id FROM tasker.ready_queue q "
			"JOIN tasker.tasks t ON t.task_id = q.task_id AND t.state IN ('pending', 'in_progress') "
			"WHERE q.lane < 0 ORDER BY q.lane, q.rank, q.task_id, q.step_id) AS f "
			"WHERE NOT EXISTS (SELECT FROM tasker.executors() x WHERE x.owner = -f.lane) "
			"AND tasker.scheduler_pid() IS NOT NULL "
			"AND COALESCE((SELECT pg_catalog.max(h.created_at) FROM tasker.workflow_step_transitions h "
			"WHERE h.task_id = f.task_id AND h.step_id = f.step_id), "
			"(SELECT t.requested_at FROM tasker.tasks t WHERE t.task_id = f.task_id)) < tasker.now() - '10 seconds'::interval "
			"ORDER BY f.lane DESC",
			ANSWER
	}},
	{"nobody serves a queue", {
			.sql = "SELECT pg_catalog.format('Queue %s has ready steps (%s), and no worker has asked it for any in the last minute (%s registered for it).', "
			"pg_catalog.quote_literal(q.name), q.depth, q.workers), "
			"'Start a worker for it; tasker.worker_status lists those that registered.' "
			"FROM tasker.queue_status q WHERE q.depth > 0 AND q.paused_at IS NULL "
			"AND (q.claimed_at IS NULL OR q.claimed_at < tasker.now() - '1 minute'::interval) ORDER BY q.name",
			ANSWER
	}},
	{"a queue is paused", {
			.sql = "SELECT pg_catalog.format('Queue %s has ready steps (%s); %s paused it%s.', pg_catalog.quote_literal(q.name), q.depth, "
			"q.paused_by, COALESCE(': ' || q.pause_reason, '')), pg_catalog.format('SELECT tasker.resume_queue(%L).', q.name) "
			"FROM tasker.queue_status q WHERE q.depth > 0 AND q.paused_at IS NOT NULL ORDER BY q.name",
			ANSWER
	}},
	{"leases that ran out are not looked at", {
			.sql = "SELECT pg_catalog.format('%s claims, since %s.', pg_catalog.count(*), pg_catalog.min(l.expires_at)), "
			"'The scheduler does it within a second: see whether it runs, and the server''s log.' "
			"FROM tasker.leases l WHERE l.expires_at < tasker.now() - '10 seconds'::interval HAVING pg_catalog.count(*) > 0",
			ANSWER
	}},
	{"a lease is orphaned", {
			.sql = "SELECT pg_catalog.format('Step %s of task %s is claimed by worker %s, and tasker.leases has no row of it: when its lease ends, at %s, nobody will notice.', "
			"s.step_id, s.task_id, pg_catalog.quote_literal(s.claimed_by), s.lease_expires_at), "
			"pg_catalog.format('SELECT tasker.release_step(%s, %s, %L) has it claimed again.', s.task_id, s.step_id, s.lease) "
			"FROM tasker.tasks t JOIN tasker.workflow_steps s ON s.task_id = t.task_id "
			"WHERE t.state IN ('in_progress', 'paused') AND s.state = 'in_progress' AND s.lease IS NOT NULL "
			"AND NOT EXISTS (SELECT FROM tasker.leases l CROSS JOIN LATERAL "
			"ROWS FROM (pg_catalog.unnest(l.task_ids), pg_catalog.unnest(l.step_ids)) AS u (task_id, step_id) "
			"WHERE u.task_id = s.task_id AND u.step_id = s.step_id) "
			"ORDER BY s.task_id, s.step_id LIMIT 20",
			ANSWER
	}, true},
	{"steps whose time has come are not looked at", {
			.sql = "SELECT pg_catalog.format('%s, since %s.', pg_catalog.count(*), pg_catalog.min(m.due_at)), "
			"'The scheduler does it at once: see whether it runs, whether somebody holds the steps locked, and the server''s log.' "
			"FROM tasker.timers m WHERE m.due_at < tasker.now() - '10 seconds'::interval HAVING pg_catalog.count(*) > 0",
			ANSWER
	}},
	{"what tasker keeps of a task does not fit its steps", {
			.sql = "SELECT pg_catalog.format('Task %s: %s (expected %s, found %s).', t.task_id, v.problem, v.expected, v.found), "
			"pg_catalog.format('SELECT * FROM tasker.verify_task(%s); rows were changed by hand, or this is a bug.', t.task_id) "
			"FROM (SELECT k.task_id FROM tasker.tasks k WHERE k.state IN ('pending', 'in_progress') ORDER BY k.task_id LIMIT 100) AS t "
			"CROSS JOIN LATERAL tasker.verify_task(t.task_id) AS v",
			ANSWER
	}},
	{"tasks are in error", {
			.sql = "SELECT pg_catalog.format('%s, the last one is %s.', pg_catalog.count(*), pg_catalog.max(t.task_id)), "
			"'SELECT * FROM tasker.step_status WHERE state = ''error''; then tasker.retry_task, resolve_step or cancel_task.' "
			"FROM tasker.tasks t WHERE t.state = 'error' HAVING pg_catalog.count(*) > 0",
			ANSWER
	}, true},
	{"a handler does not exist", {
			.sql = "SELECT pg_catalog.format('Function %s(jsonb) of step %s of %s %s.', s.handler, pg_catalog.quote_literal(s.name), n.name, n.version), "
			"'Create the function, or define the workflow anew under another version.' "
			"FROM tasker.named_tasks n JOIN tasker.named_steps s ON s.named_task_id = n.named_task_id "
			"WHERE n.is_default AND s.handler_kind = 'function' "
			"AND pg_catalog.to_regprocedure(s.handler || '(jsonb)') IS NULL ORDER BY n.name, n.version, s.step_no LIMIT 20",
			ANSWER
	}},
	{"a role's access does not count", {
			.sql = "SELECT pg_catalog.format('Level %s of role %s: %s.', g.level, pg_catalog.quote_ident(g.role_name), "
			"CASE WHEN r.oid IS NULL THEN 'there is no such role' ELSE 'this is not the role that got it' END), "
			"pg_catalog.format('SELECT tasker.revoke_access(%L); if the role was renamed, tasker.grant_access to its new name.', g.role_name) "
			"FROM tasker.access_grants g LEFT JOIN pg_catalog.pg_roles r ON r.rolname = g.role_name "
			"WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a "
			"WHERE n.nspname = 'tasker' AND a.grantee = r.oid AND a.privilege_type = 'USAGE') ORDER BY g.role_name",
			ANSWER
	}},

	/* --------------------------------------------------------- retention */
	{"the archive function is gone", {
			.sql = "SELECT pg_catalog.format('Function %s(jsonb) does not exist; until it does no task is removed.', a.function), "
			"'Create it, or choose another one with tasker.set_archive.' "
			"FROM tasker.archive a WHERE pg_catalog.to_regprocedure(a.function || '(jsonb)') IS NULL",
			ANSWER
	}},
	{"the archive function fails", {
			.sql = "SELECT pg_catalog.format('It refused %s tasks, task %s with: %s.', pg_catalog.count(*), pg_catalog.min(o.task_id), "
			"(SELECT p.error ->> 'message' FROM tasker.overdue_tasks p WHERE p.error IS NOT NULL ORDER BY p.task_id LIMIT 1)), "
			"'They stay and are tried again, by and by. SELECT * FROM tasker.overdue_tasks has each error.' "
			"FROM tasker.overdue_tasks o WHERE o.error IS NOT NULL HAVING pg_catalog.count(*) > 0",
			ANSWER
	}},
	{"tasks that are to go are locked", {
			.sql = "SELECT pg_catalog.format('%s, the first one is %s.', pg_catalog.count(*), pg_catalog.min(o.task_id)), "
			"'Some session holds rows of theirs: end its transaction. They are tried again.' "
			"FROM tasker.overdue_tasks o WHERE o.error IS NULL HAVING pg_catalog.count(*) > 0",
			ANSWER
	}},
	{"retention is behind", {
			.sql = "SELECT pg_catalog.format('%s tasks ended before %s, the first one at %s.', pg_catalog.count(*), r.too_old, pg_catalog.min(t.completed_at)), "
			"'The scheduler removes them: see whether it runs, and the server''s log. SELECT tasker.expire() removes some at once.' "
			"FROM (SELECT tasker.now() - 2 * pg_catalog.make_interval(secs => g.setting::float8) - '10 minutes'::interval AS too_old "
			"FROM pg_catalog.pg_settings g WHERE g.name = 'tasker.retention' AND g.setting::int >= 0) AS r "
			"JOIN tasker.tasks t ON t.completed_at < r.too_old AND t.state IN ('complete', 'cancelled', 'resolved_manually') "
			"WHERE NOT EXISTS (SELECT FROM tasker.overdue_tasks o WHERE o.task_id = t.task_id) "
			"GROUP BY r.too_old HAVING pg_catalog.count(*) > 0",
			ANSWER
	}, true},

	/* ------------------------------------------------- vacuum, durability */
	{"a session holds back vacuum", {
			.sql = "SELECT pg_catalog.format('Process %s of role %I has had a transaction open since %s.', a.pid, a.usename, a.xact_start), "
			"CASE WHEN a.backend_type = 'tasker executor' THEN "
			"'Dead rows of all tables stay meanwhile. tasker.executing says which step it runs; give that a timeout, or cancel its task.' "
			"ELSE 'Dead rows of all tables stay meanwhile. End the transaction, or pg_terminate_backend.' END "
			"FROM pg_catalog.pg_stat_activity a WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) "
			"AND a.xact_start < tasker.now() - '5 minutes'::interval AND a.pid <> pg_catalog.pg_backend_pid() ORDER BY a.xact_start",
			ANSWER
	}},
	{"a replication slot holds back vacuum", {
			.sql = "SELECT pg_catalog.format('Slot %I, inactive.', s.slot_name), "
			"'Dead rows and WAL stay meanwhile. Have its standby or subscriber connect, or drop it.' "
			"FROM pg_catalog.pg_replication_slots s WHERE NOT s.active AND (s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL) ORDER BY s.slot_name",
			ANSWER
	}},
	{"a prepared transaction holds back vacuum", {
			.sql = "SELECT pg_catalog.format('%L, prepared %s.', x.gid, x.prepared), 'COMMIT PREPARED or ROLLBACK PREPARED it.' "
			"FROM pg_catalog.pg_prepared_xacts x WHERE x.prepared < tasker.now() - '5 minutes'::interval ORDER BY x.prepared",
			ANSWER
	}},
	{"autovacuum is off", {
			.sql = "SELECT pg_catalog.format('%s is off on this server.', pg_catalog.string_agg(g.name, ' and ' ORDER BY g.name)), "
			"'Tables of tasks grow without end. Set it on, and reload.' FROM pg_catalog.pg_settings g "
			"WHERE g.name IN ('autovacuum', 'track_counts') AND g.setting = 'off' HAVING pg_catalog.count(*) > 0 "
			"UNION ALL SELECT pg_catalog.format('It is off for table %s.', c.oid::regclass), "
			"pg_catalog.format('ALTER TABLE %s RESET (autovacuum_enabled).', c.oid::regclass) "
			"FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.pg_options_to_table(c.reloptions) o "
			"WHERE c.relnamespace = 'tasker'::regnamespace AND o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean",
			ANSWER
	}},
	{"a table is not frozen", {
			.sql = "SELECT pg_catalog.format('Table %s has rows from %s transactions ago, twice as many as autovacuum_freeze_max_age allows.', "
			"c.oid::regclass, pg_catalog.age(c.relfrozenxid)), "
			"pg_catalog.format('See who holds back vacuum, then VACUUM FREEZE %s. At 2 billion the server stops taking transactions.', c.oid::regclass) "
			"FROM pg_catalog.pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind = 'r' "
			"AND pg_catalog.age(c.relfrozenxid) > LEAST(2 * pg_catalog.current_setting('autovacuum_freeze_max_age')::bigint, 1500000000) "
			"ORDER BY pg_catalog.age(c.relfrozenxid) DESC, c.oid::regclass::text LIMIT 3",
			ANSWER
	}},
	{"fsync is off", {
			.sql = "SELECT 'Tasks that were accepted may be lost, or the whole database, when the operating system crashes.', "
			"'ALTER SYSTEM SET fsync = on, and reload.' WHERE pg_catalog.current_setting('fsync') = 'off'",
			ANSWER
	}},
};

/* Roles with tasks under way, some step of which is to run in the database. */
static TaskerQuery open_owners = {
	.sql = "SELECT COALESCE(o.role_oid, 0::oid), o.role_name, pg_catalog.count(*)::text, pg_catalog.max(t.task_id)::text "
	"FROM tasker.tasks t JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id AND n.runs_in_database "
	"LEFT JOIN tasker.owners o ON o.owner_id = t.owner "
	"WHERE t.state IN ('pending', 'in_progress', 'paused') GROUP BY o.role_oid, o.role_name ORDER BY o.role_name",
	.columns = {OIDOID, NAMEOID, TEXTOID, TEXTOID},
	.read_only = true,
};

/* ------------------------------------------------------------------- answers */

static void
report(ReturnSetInfo *rsinfo, const char *problem, const char *detail, const char *hint)
{
	Datum		values[3];
	bool		nulls[3] = {false};

	values[0] = CStringGetTextDatum(problem);
	values[1] = CStringGetTextDatum(detail);
	values[2] = CStringGetTextDatum(hint);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* A section is made for statements about a few tasks; this one is about all of them. */
static uint64
run_over_all(TaskerQuery *query)
{
	static const char *const scans[] = {"enable_seqscan", "enable_hashjoin", "enable_sort", "enable_material"};
	int			guc_level = NewGUCNestLevel();
	uint64		n;

	for (int i = 0; i < lengthof(scans); i++)
		(void) set_config_option(scans[i], "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	n = tasker_run(query, NULL, NULL);
	AtEOXact_GUC(true, guc_level);
	return n;
}

static void
ask(ReturnSetInfo *rsinfo, Question *question)
{
	uint64		n = question->of_all ? run_over_all(&question->query) : tasker_run(&question->query, NULL, NULL);

	for (uint64 row = 0; row < n; row++)
		report(rsinfo, question->problem, TextDatumGetCString(tasker_value_notnull(row, 1)),
			   TextDatumGetCString(tasker_value_notnull(row, 2)));
}

/* Their steps will end in error when their turn comes. */
static void
find_unusable_owners(ReturnSetInfo *rsinfo)
{
	uint64		n = run_over_all(&open_owners);

	for (uint64 row = 0; row < n; row++)
	{
		Oid			role = DatumGetObjectId(tasker_value_notnull(row, 1));
		bool		isnull;
		Datum		value = tasker_value(row, 2, &isnull);
		const char *name = isnull ? NULL : NameStr(*DatumGetName(value));
		const Unusable *why = owner_unusable(role, name);

		if (why != NULL)
			report(rsinfo, "an owner of tasks can not run them",
				   psprintf("%s. Tasks under way: %s, the last one is %s.", unusable_message(why, role, name),
							TextDatumGetCString(tasker_value_notnull(row, 3)),
							TextDatumGetCString(tasker_value_notnull(row, 4))),
				   unusable_error(why, role, name)->hint);
	}
}

/* Are there background workers for all that tasker may want to start? */
static void
find_missing_workers(ReturnSetInfo *rsinfo)
{
	int			used = count_background_workers();
	int			schedulers = 0;
	int			wanted;

	LWLockAcquire(&tasker_shared()->lock, LW_SHARED);
	for (int i = 0; i < TASKER_MAX_DATABASES; i++)
		schedulers += tasker_shared()->schedulers[i].pid != 0;
	LWLockRelease(&tasker_shared()->lock);
	wanted = 1 + schedulers + tasker_max_executors + (max_logical_replication_workers > 0);
	if (used >= max_worker_processes)
		report(rsinfo, "the server has no background worker left",
			   psprintf("All of max_worker_processes (%d) are taken.", max_worker_processes),
			   "Raise max_worker_processes, and restart the server.");
	if (wanted > max_worker_processes)
		report(rsinfo, "max_worker_processes is too small",
			   psprintf("It is %d; a launcher, schedulers (%d), tasker.max_executors (%d) and logical replication's launcher may want %d.",
						max_worker_processes, schedulers, tasker_max_executors, wanted),
			   "Raise max_worker_processes and restart the server, or lower tasker.max_executors.");
}

PG_FUNCTION_INFO_V1(tasker_doctor);

/* doctor(): (problem, detail, hint), for viewers, operators and admins */
Datum
tasker_doctor(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	AccessLevel level;
	TaskerSection section;

	tasker_begin_srf(fcinfo);
	/* nothing else can be asked then */
	if (!library_fits(0))
	{
		report(rsinfo, "the library does not fit the extension", psprintf("%s.", library_misfit()), library_misfit_hint);
		return (Datum) 0;
	}
	level = access_level(GetUserId());
	if (level != ACCESS_VIEWER && level < ACCESS_OPERATOR)
		return (Datum) 0;
	tasker_enter(&section);
	for (int i = 0; i < lengthof(questions); i++)
	{
		CHECK_FOR_INTERRUPTS();
		ask(rsinfo, &questions[i]);
	}
	find_unusable_owners(rsinfo);
	find_missing_workers(rsinfo);
	tasker_leave(&section);
	return (Datum) 0;
}
