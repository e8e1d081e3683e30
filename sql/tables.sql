-- Tables. A table, leaf or sequence that holds users' data is registered with
-- pg_extension_config_dump, one call a statement, and this script inserts no
-- row into it: both are needed for dump and restore to keep every row. There are
-- no foreign keys: pg_restore -j loads the tables in any order.

-- ---------------------------------------------------------------- definitions
CREATE TABLE tasker.owners (
	owner_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	role_name name NOT NULL,
	role_oid oid,
	UNIQUE (role_oid, role_name)
);
COMMENT ON TABLE tasker.owners IS
'Roles that own tasks or definitions. A name and an oid, not a role reference: a restore where a role is missing loses no task. Both must agree before a step runs.';
COMMENT ON COLUMN tasker.owners.role_oid IS 'Null: adopt found no role of this name on the server that the database came to.';

CREATE TABLE tasker.task_namespaces (
	namespace_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE,
	description text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE tasker.task_namespaces IS 'Names under which named tasks live; made on first use by define_task.';

CREATE TABLE tasker.queues (
	queue_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE,
	description text,
	notify boolean NOT NULL DEFAULT false,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	paused_at timestamptz,
	paused_by text,
	pause_reason text
);
COMMENT ON TABLE tasker.queues IS 'Queues that external workers claim steps from; made on first use by define_task, or by create_queue.';
COMMENT ON COLUMN tasker.queues.notify IS 'Whether sessions that LISTEN to tasker_queue are told when it gets steps; the payload is its name.';
COMMENT ON COLUMN tasker.queues.paused_at IS 'Since when nothing is claimed from it; null if it is not paused.';

CREATE TABLE tasker.named_tasks (
	named_task_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	namespace_id int NOT NULL,
	name text NOT NULL,
	version text NOT NULL,
	description text,
	definition jsonb NOT NULL,
	is_default boolean NOT NULL,
	step_count int NOT NULL,
	edge_count int NOT NULL,
	runs_in_database boolean NOT NULL,
	owner int NOT NULL,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	UNIQUE (namespace_id, name, version)
);
COMMENT ON TABLE tasker.named_tasks IS 'Workflow definitions, one row a version, immutable but for is_default.';
COMMENT ON COLUMN tasker.named_tasks.namespace_id IS 'task_namespaces.namespace_id.';
COMMENT ON COLUMN tasker.named_tasks.is_default IS 'The version that create_task takes when it is given none; one a name.';
COMMENT ON COLUMN tasker.named_tasks.runs_in_database IS 'Some step has a function or sql handler, so whoever submits it must be able to have a session.';
COMMENT ON COLUMN tasker.named_tasks.owner IS 'owners.owner_id of the role that defined it.';

CREATE TABLE tasker.named_steps (
	named_task_id int NOT NULL,
	step_no int NOT NULL,
	name text NOT NULL,
	description text,
	handler_kind text NOT NULL CHECK (handler_kind IN ('function', 'sql', 'queue')),
	handler text NOT NULL,
	queue_id int,
	parents int NOT NULL,
	retryable boolean NOT NULL,
	max_attempts int NOT NULL,
	backoff text NOT NULL CHECK (backoff IN ('exponential', 'linear', 'fixed', 'list')),
	backoff_base interval NOT NULL,
	backoff_factor float8 NOT NULL,
	backoff_cap interval NOT NULL,
	backoff_jitter float8 NOT NULL,
	backoff_delays interval[],
	timeout interval,
	lease interval NOT NULL,
	priority int NOT NULL,
	handler_owner int,
	PRIMARY KEY (named_task_id, step_no),
	UNIQUE (named_task_id, name)
);
COMMENT ON TABLE tasker.named_steps IS 'Steps of the definitions, numbered 1..n in a topological order.';
COMMENT ON COLUMN tasker.named_steps.handler IS 'By handler_kind: the qualified name of a function, the text of a statement, or the name of a queue.';
COMMENT ON COLUMN tasker.named_steps.handler_owner IS 'owners.owner_id of the role that owned the function when the step was defined; another role''s function of the same name is not run.';
COMMENT ON COLUMN tasker.named_steps.parents IS 'How many steps it depends on.';

CREATE TABLE tasker.named_step_edges (
	named_task_id int NOT NULL,
	from_step_no int NOT NULL,
	to_step_no int NOT NULL,
	PRIMARY KEY (named_task_id, from_step_no, to_step_no),
	CHECK (from_step_no < to_step_no)
);
COMMENT ON TABLE tasker.named_step_edges IS 'Dependencies between the steps of a definition; from < to, so no cycle can be written down.';

-- ---------------------------------------------------------------------- tasks
CREATE SEQUENCE tasker.task_id_seq;
COMMENT ON SEQUENCE tasker.task_id_seq IS 'The low 48 bits of the task ids; see tasker.next_task_id().';

CREATE TABLE tasker.tasks (
	task_id bigint PRIMARY KEY,
	requested_at timestamptz NOT NULL,
	start_at timestamptz,
	started_at timestamptz,
	completed_at timestamptz,
	correlation_id uuid,
	named_task_id int NOT NULL,
	owner int NOT NULL,
	priority int NOT NULL,
	blocked boolean NOT NULL DEFAULT false,
	state tasker.task_state NOT NULL,
	context jsonb NOT NULL,
	tags jsonb,
	initiator text,
	source_system text,
	reason text,
	traceparent text
) WITH (fillfactor = 35, autovacuum_vacuum_scale_factor = 0.05);
-- There is room for the row as it is created, begun and ended (see workflow_steps).
-- Retention deletes as much as is created. Vacuumed after 5 % instead of 20 %, the
-- tables of tasks and their indexes take a fifth less room, at the same rate;
-- after 2 % hardly less than that (bench/retention.sh).
COMMENT ON TABLE tasker.tasks IS 'Runs of named tasks. Written by triggers and API functions; any change of state is checked and recorded.';
COMMENT ON COLUMN tasker.tasks.owner IS 'owners.owner_id of the role that submitted it and as which its steps run.';
COMMENT ON COLUMN tasker.tasks.traceparent IS 'The W3C trace context that it was created in, if its creator gave one.';
COMMENT ON COLUMN tasker.tasks.blocked IS 'Some step went to error or was cancelled: whether the task can go on is looked at whenever another of its steps ends.';

CREATE TABLE tasker.idempotency_keys (
	owner int NOT NULL,
	key text NOT NULL,
	task_id bigint NOT NULL,
	PRIMARY KEY (owner, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX idempotency_keys_task ON tasker.idempotency_keys (task_id);
COMMENT ON TABLE tasker.idempotency_keys IS 'Which task an owner''s idempotency key stands for; the key goes with the task.';

CREATE TABLE tasker.workflow_steps (
	task_id bigint NOT NULL,
	next_attempt_at timestamptz,
	last_attempted_at timestamptz,
	completed_at timestamptz,
	lease_expires_at timestamptz,
	lease uuid,
	step_id int NOT NULL,
	step_no int NOT NULL,
	lane int NOT NULL,
	priority int NOT NULL,
	pending_parents int NOT NULL,
	attempts int NOT NULL DEFAULT 0,
	state tasker.step_state NOT NULL,
	claimed_by text,
	results jsonb,
	last_error jsonb,
	checkpoint jsonb,
	PRIMARY KEY (task_id, step_id)
) WITH (fillfactor = 25, autovacuum_vacuum_scale_factor = 0.05);
-- A page has room for all that its steps will be: the row as it is created, the one
-- that is claimed, the one that ended, even if none of the first two can be pruned
-- yet, since somebody is looking. So each update stays on its page. Measured, with
-- 8 workers that claim 100 each: 44, 36, 30 and 25 per cent keep 57, 66, 83 and 100
-- of 100 updates there; with 44 the steps that moved make the table as large.
COMMENT ON TABLE tasker.workflow_steps IS
'Steps of the tasks. UPDATE … SET state = … by anybody is checked against the state machine, recorded, and releases children exactly as the API does.';
COMMENT ON COLUMN tasker.workflow_steps.step_id IS 'Ordinal within the task; a parent''s is smaller than its children''s.';
COMMENT ON COLUMN tasker.workflow_steps.step_no IS 'named_steps.step_no of its definition.';
COMMENT ON COLUMN tasker.workflow_steps.lane IS 'Who may take it: a queue_id, or minus the owner_id for a step that runs in the database.';
COMMENT ON COLUMN tasker.workflow_steps.pending_parents IS 'How many of its parents are not satisfied yet.';
COMMENT ON COLUMN tasker.workflow_steps.attempts IS 'Attempts that have begun or, for a step run inside one transaction, ended.';
COMMENT ON COLUMN tasker.workflow_steps.checkpoint IS 'What a worker stored with a heartbeat, for the next attempt.';
COMMENT ON COLUMN tasker.workflow_steps.last_error IS 'The error of the last failed attempt: sqlstate, message, detail, hint, context.';

CREATE TABLE tasker.workflow_step_edges (
	task_id bigint NOT NULL,
	from_step_id int NOT NULL,
	to_step_id int NOT NULL,
	PRIMARY KEY (task_id, from_step_id, to_step_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
-- Both directions have an index that covers them, and the planner is told that a
-- task has some 50 edges, however many it sees. Otherwise an index-only scan of
-- the primary key, which reads every edge of the task for each step, seems as
-- good to it as a probe of the index that fits.
CREATE INDEX workflow_step_edges_to ON tasker.workflow_step_edges (task_id, to_step_id, from_step_id);
ALTER TABLE tasker.workflow_step_edges ALTER COLUMN task_id SET (n_distinct = -0.02);
COMMENT ON TABLE tasker.workflow_step_edges IS 'Dependencies between the steps of the tasks. An edge that would close a cycle is refused.';

CREATE TABLE tasker.workflow_step_results (
	task_id bigint NOT NULL,
	step_id int NOT NULL,
	results jsonb NOT NULL,
	PRIMARY KEY (task_id, step_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE tasker.workflow_step_results IS 'Results too large for the row of the step.';

-- ------------------------------------------------------------- what is to be done
-- Both tables hold hints: a row says "look at this step"; the step's own row
-- decides. A hint may be stale, never missing.
CREATE TABLE tasker.ready_queue (
	lane int NOT NULL,
	rank int NOT NULL,
	task_id bigint NOT NULL,
	step_id int NOT NULL,
	PRIMARY KEY (lane, rank, task_id, step_id)
);
COMMENT ON TABLE tasker.ready_queue IS 'Steps that can be taken now, in the order in which they are taken.';
COMMENT ON COLUMN tasker.ready_queue.rank IS 'Minus the step''s priority, so that the index runs in the order of the claims.';

CREATE TABLE tasker.timers (
	due_at timestamptz NOT NULL,
	task_id bigint NOT NULL,
	step_id int NOT NULL,
	PRIMARY KEY (due_at, task_id, step_id)
);
COMMENT ON TABLE tasker.timers IS 'When the scheduler must look at which step (or, with step_id 0, at which task).';

CREATE TABLE tasker.leases (
	expires_at timestamptz NOT NULL,
	row_id uuid NOT NULL,
	task_ids bigint[] NOT NULL,
	step_ids int[] NOT NULL,
	PRIMARY KEY (expires_at, row_id)
);
COMMENT ON TABLE tasker.leases IS 'When the scheduler must look whether the leases of which claimed steps ran out: a row a claim, not one a step.';
COMMENT ON COLUMN tasker.leases.row_id IS 'Random. A step that was claimed again, or whose lease was extended, may be in several rows with the same end.';

-- -------------------------------------------------------------------- workers
CREATE TABLE tasker.workers (
	role_name name NOT NULL,
	worker text NOT NULL,
	queues text[] NOT NULL,
	metadata jsonb NOT NULL,
	registered_at timestamptz NOT NULL,
	last_seen_at timestamptz NOT NULL,
	PRIMARY KEY (role_name, worker)
) WITH (fillfactor = 50);
-- Not for the dump: the workers of the original are not the copy's.
COMMENT ON TABLE tasker.workers IS 'External workers that registered: who they say they are, what they serve, when they last said so.';
COMMENT ON COLUMN tasker.workers.metadata IS 'What the worker says of itself: host, process, version.';

-- -------------------------------------------------------------------- history
-- A ring of leaves, one of which is written to; each is truncated before its next
-- turn (src/history_ring.c). BRIN only, since rows of a task lie close together; in
-- ranges of half a megabyte, since autovacuum keeps 256 requests to summarize one,
-- and each that finds no room is a line in the log: that is 128 MB in the minute
-- between two of its rounds.
CREATE TABLE tasker.task_transitions (
	slot smallint NOT NULL,
	executor int,
	task_id bigint NOT NULL,
	created_at timestamptz NOT NULL,
	from_state text COLLATE "C" NOT NULL,
	to_state text COLLATE "C" NOT NULL,
	metadata jsonb
) PARTITION BY LIST (slot);
CREATE TABLE tasker.task_transitions_0 PARTITION OF tasker.task_transitions FOR VALUES IN (0);
CREATE TABLE tasker.task_transitions_1 PARTITION OF tasker.task_transitions FOR VALUES IN (1);
CREATE TABLE tasker.task_transitions_2 PARTITION OF tasker.task_transitions FOR VALUES IN (2);
CREATE TABLE tasker.task_transitions_3 PARTITION OF tasker.task_transitions FOR VALUES IN (3);
CREATE INDEX task_transitions_task ON tasker.task_transitions
	USING brin (task_id, created_at) WITH (pages_per_range = 64, autosummarize = on);
COMMENT ON TABLE tasker.task_transitions IS 'One row for each change of state of a task.';
COMMENT ON COLUMN tasker.task_transitions.executor IS 'Process id of the server process that made the change.';

CREATE TABLE tasker.workflow_step_transitions (
	slot smallint NOT NULL,
	executor int,
	task_id bigint NOT NULL,
	created_at timestamptz NOT NULL,
	started_at timestamptz,
	step_id int NOT NULL,
	attempt int NOT NULL,
	from_state text COLLATE "C" NOT NULL,
	to_state text COLLATE "C" NOT NULL,
	metadata jsonb
) PARTITION BY LIST (slot);
CREATE TABLE tasker.workflow_step_transitions_0 PARTITION OF tasker.workflow_step_transitions FOR VALUES IN (0);
CREATE TABLE tasker.workflow_step_transitions_1 PARTITION OF tasker.workflow_step_transitions FOR VALUES IN (1);
CREATE TABLE tasker.workflow_step_transitions_2 PARTITION OF tasker.workflow_step_transitions FOR VALUES IN (2);
CREATE TABLE tasker.workflow_step_transitions_3 PARTITION OF tasker.workflow_step_transitions FOR VALUES IN (3);
CREATE INDEX workflow_step_transitions_task ON tasker.workflow_step_transitions
	USING brin (task_id, created_at) WITH (pages_per_range = 64, autosummarize = on);
COMMENT ON TABLE tasker.workflow_step_transitions IS 'One row for each change of state of a step.';
COMMENT ON COLUMN tasker.workflow_step_transitions.executor IS 'Process id of the server process that made the change.';
COMMENT ON COLUMN tasker.workflow_step_transitions.started_at IS 'When the attempt that ended here began.';
COMMENT ON COLUMN tasker.workflow_step_transitions.metadata IS 'The error of a failed attempt; who asked for it and why, for an operator''s change.';

-- Rows are moved from leaf to leaf: with somebody's publication of all tables that
-- needs a way to say which row it was.
ALTER TABLE tasker.task_transitions_0 REPLICA IDENTITY FULL;
ALTER TABLE tasker.task_transitions_1 REPLICA IDENTITY FULL;
ALTER TABLE tasker.task_transitions_2 REPLICA IDENTITY FULL;
ALTER TABLE tasker.task_transitions_3 REPLICA IDENTITY FULL;
ALTER TABLE tasker.workflow_step_transitions_0 REPLICA IDENTITY FULL;
ALTER TABLE tasker.workflow_step_transitions_1 REPLICA IDENTITY FULL;
ALTER TABLE tasker.workflow_step_transitions_2 REPLICA IDENTITY FULL;
ALTER TABLE tasker.workflow_step_transitions_3 REPLICA IDENTITY FULL;

CREATE TABLE tasker.history_ring (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	slot smallint NOT NULL,
	since timestamptz NOT NULL,
	expiring smallint NOT NULL
);
COMMENT ON TABLE tasker.history_ring IS 'One row, made when the ring is first turned: the slot that history is written to. Without it that is slot 0.';
COMMENT ON COLUMN tasker.history_ring.since IS 'When the turn of the slot began.';
COMMENT ON COLUMN tasker.history_ring.expiring IS 'The slot that is searched for ends of tasks.';

-- Not dumped: a position means something in the file that it is in only.
CREATE TABLE tasker.history_walk (
	walk int PRIMARY KEY,
	filenode oid NOT NULL,
	block bigint NOT NULL,
	line int NOT NULL
);
COMMENT ON TABLE tasker.history_walk IS
'Up to where leaves of the history were walked, by retention: 0 for ends of tasks, 1 and 2 for rows of tasks and of steps that are kept.';

-- ------------------------------------------------------------------- retention
CREATE TABLE tasker.overdue_tasks (
	task_id bigint PRIMARY KEY,
	ended_at timestamptz NOT NULL,
	tries int NOT NULL,
	next_try_at timestamptz NOT NULL,
	error jsonb
);
CREATE INDEX overdue_tasks_next ON tasker.overdue_tasks (next_try_at);
COMMENT ON TABLE tasker.overdue_tasks IS 'Tasks that retention could not remove when their time came, and tries again.';
COMMENT ON COLUMN tasker.overdue_tasks.error IS 'Why the archive function refused it; null if a session had something of it locked.';

CREATE TABLE tasker.archive (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	function text NOT NULL,
	function_owner name NOT NULL
);
COMMENT ON COLUMN tasker.archive.function_owner IS 'The role that owned it when it was chosen; another role''s function of the same name is not called.';
COMMENT ON TABLE tasker.archive IS 'The function that gets the documents of tasks before they are removed; see tasker.set_archive.';

-- ---------------------------------------------------------------------- access
CREATE TABLE tasker.access_grants (
	role_name name NOT NULL PRIMARY KEY,
	level text NOT NULL CHECK (level IN ('viewer', 'submitter', 'worker', 'operator', 'admin'))
);
COMMENT ON TABLE tasker.access_grants IS 'What grant_access gave to whom.';

-- ------------------------------------------------------------ original or copy
-- Where the database was armed, and by what a dump of it is known. "here" is
-- not dumped, "origin" is: what has only the latter was restored.
CREATE TABLE tasker.here (
	the_row boolean PRIMARY KEY DEFAULT true CHECK (the_row),
	token uuid NOT NULL,
	armed boolean NOT NULL,
	reason text,
	since timestamptz NOT NULL,
	database_oid oid NOT NULL,
	system_identifier bigint NOT NULL,
	catalog_xid xid NOT NULL,
	row_xid xid NOT NULL
);
COMMENT ON TABLE tasker.here IS 'Where this database was armed, one row, or none if it is new or was restored: tasker.guard() judges by it whether the database is the original or a copy.';
COMMENT ON COLUMN tasker.here.token IS 'Made anew by each arming; tasker.origin has it too.';
COMMENT ON COLUMN tasker.here.armed IS 'False once it was found to be a copy, until tasker.adopt().';
COMMENT ON COLUMN tasker.here.reason IS 'Why it is disarmed.';
COMMENT ON COLUMN tasker.here.catalog_xid IS 'Which transaction made the catalog''s entry of this table: pg_upgrade makes it anew, no other copy of the files does.';
COMMENT ON COLUMN tasker.here.row_xid IS 'Which transaction wrote this row: one that came by replication was written by another. 0 when rows of tasks came from elsewhere.';

CREATE TABLE tasker.origin (
	token uuid PRIMARY KEY,
	armed_at timestamptz NOT NULL
);
COMMENT ON TABLE tasker.origin IS 'The token of the database that these rows belong to, dumped with them.';

-- Parts of others, for whoever comes across them.
COMMENT ON TABLE tasker.task_transitions_0 IS 'Slot 0 of task_transitions.';
COMMENT ON TABLE tasker.task_transitions_1 IS 'Slot 1 of task_transitions.';
COMMENT ON TABLE tasker.task_transitions_2 IS 'Slot 2 of task_transitions.';
COMMENT ON TABLE tasker.task_transitions_3 IS 'Slot 3 of task_transitions.';
COMMENT ON TABLE tasker.workflow_step_transitions_0 IS 'Slot 0 of workflow_step_transitions.';
COMMENT ON TABLE tasker.workflow_step_transitions_1 IS 'Slot 1 of workflow_step_transitions.';
COMMENT ON TABLE tasker.workflow_step_transitions_2 IS 'Slot 2 of workflow_step_transitions.';
COMMENT ON TABLE tasker.workflow_step_transitions_3 IS 'Slot 3 of workflow_step_transitions.';
COMMENT ON SEQUENCE tasker.owners_owner_id_seq IS 'Gives owners.owner_id.';
COMMENT ON SEQUENCE tasker.task_namespaces_namespace_id_seq IS 'Gives task_namespaces.namespace_id.';
COMMENT ON SEQUENCE tasker.queues_queue_id_seq IS 'Gives queues.queue_id.';
COMMENT ON SEQUENCE tasker.named_tasks_named_task_id_seq IS 'Gives named_tasks.named_task_id.';

-- ------------------------------------------------------------------------ dump
SELECT pg_catalog.pg_extension_config_dump('tasker.owners', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.owners_owner_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.task_namespaces', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.task_namespaces_namespace_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.queues', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.queues_queue_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.named_tasks', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.named_tasks_named_task_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.named_steps', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.named_step_edges', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.task_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.tasks', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.idempotency_keys', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.workflow_steps', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.workflow_step_edges', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.workflow_step_results', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.ready_queue', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.timers', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.leases', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.task_transitions_0', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.task_transitions_1', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.task_transitions_2', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.task_transitions_3', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.workflow_step_transitions_0', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.workflow_step_transitions_1', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.workflow_step_transitions_2', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.workflow_step_transitions_3', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.history_ring', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.overdue_tasks', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.archive', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.access_grants', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.origin', '');
