-- The schema is a member of the extension and belongs to the superuser who
-- installs it; nothing in it is granted to PUBLIC.
CREATE SCHEMA tasker;
COMMENT ON SCHEMA tasker IS
'Workflow orchestration inside PostgreSQL: definitions, tasks, their steps, their history, and the functions that run them.';
