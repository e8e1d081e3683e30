-- Removing tasks that ended long ago, and what may be kept of them.
CREATE FUNCTION tasker.expire(older_than interval DEFAULT NULL, max_tasks int DEFAULT 1000) RETURNS int
	AS 'MODULE_PATHNAME', 'tasker_expire' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.expire(interval, int) IS
'Removes tasks that ended (complete, cancelled, resolved_manually) longer ago than that, or than tasker.retention, which the scheduler does by itself: at most so many, and as far as the history of that time is not written to any more. Returns how many went. Call it in a transaction of its own, until it returns 0.
Errors: TK204 no age, a negative one, or the isolation level, TK500 not an admin. Example: SELECT tasker.expire(''30 days'');';

CREATE FUNCTION tasker.task_document(task_id bigint) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'tasker_task_document' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION tasker.task_document(bigint) IS
'All there is of a task: {"task": {...}, "steps": [{...}], "edges": [[from_step_id, to_step_id]], "history": [{...}]}, with the columns of the tables and views as keys. Errors: TK200 unknown task. Example: SELECT tasker.task_document(42);';

CREATE FUNCTION tasker.set_archive(function text) RETURNS void
	AS 'MODULE_PATHNAME', 'tasker_set_archive' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.set_archive(text) IS
'Has a function, "schema.function" with one jsonb argument that returns void or jsonb, get the document of each task (see tasker.task_document) before retention removes it, in the same transaction; null for none. It runs as its owner, whoever calls, with search_path pg_catalog, for 5 s at most, and can not have a trigger deferred. If it raises an error the task stays and is tried again: see tasker.overdue_tasks. Nothing is removed while it does not exist.
Errors: TK500 not a superuser, TK107, TK108, TK109 no such function, or one that can not be called so. Example: SELECT tasker.set_archive(''audit.keep_task'');';
