"""session.py: psql as a library, for the property tests.

A Session is one psql process, and so one session of the server, that lives as
long as the object: settings and prepared statements stay. It connects as the
environment says (PGHOST, PGPORT, PGUSER), unless told otherwise. Nothing but
Python's standard library and psql is needed.
"""
import json
import subprocess
import sys

END = '----end-of-answer----'


class SqlError(Exception):
    def __init__(self, sqlstate, message, sql):
        super().__init__('%s: %s\n  in: %s' % (sqlstate, message, sql[:300]))
        self.sqlstate = sqlstate


class Session:
    """One statement at a time; not for several threads at once."""

    def __init__(self, dbname, user=None, host=None):
        command = ['psql', '-XAtq', '-v', 'VERBOSITY=terse', '-d', dbname]
        if user:
            command += ['-U', user]
        if host:
            command += ['-h', host]
        self.psql = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True, encoding='utf-8')

    def query(self, sql):
        """Runs one statement; its output's lines. Raises SqlError."""
        self.psql.stdin.write("%s\n;\n\\echo '%s' :SQLSTATE\n" % (sql, END))
        self.psql.stdin.flush()
        lines = []
        for line in self.psql.stdout:
            if line.startswith(END):
                state = line[len(END):].strip()
                if state != '00000':
                    raise SqlError(state, ' '.join(lines), sql)
                return lines
            lines.append(line.rstrip('\n'))
        raise SqlError('08006', 'the session ended: ' + ' '.join(lines), sql)

    def value(self, sql):
        """The one value of a statement, None for null or no row."""
        lines = self.query(sql)
        return lines[0] if lines and lines[0] != '' else None

    def json(self, sql):
        """The rows of a SELECT, as a list of dicts."""
        value = self.value('SELECT jsonb_agg(to_jsonb(r)) FROM (%s) AS r' % sql)
        return json.loads(value) if value else []

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()


def literal(value):
    """An SQL literal of a string, or of anything else as JSON."""
    if not isinstance(value, str):
        value = json.dumps(value)
    return "'%s'" % value.replace("'", "''")


def run_file(dbname, path, user=None, variables=()):
    """Runs a file with psql; (exit status, output)."""
    command = ['psql', '-X', '-v', 'ON_ERROR_STOP=1', '-d', dbname, '-f', path]
    for name, content in variables:
        command += ['-v', '%s=%s' % (name, content)]
    if user:
        command += ['-U', user]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, encoding='utf-8')
    return done.returncode, done.stdout


class Tap:
    """Prints the Test Anything Protocol."""

    def __init__(self):
        self.number = 0
        self.failed = 0

    def ok(self, passed, name, detail=()):
        self.number += 1
        if not passed:
            self.failed += 1
        print('%sok %d - %s' % ('' if passed else 'not ', self.number, name))
        for line in list(detail)[:20] if not passed else []:
            self.note(line)
        sys.stdout.flush()
        return passed

    def skip(self, name, why):
        self.number += 1
        print('ok %d - %s # SKIP %s' % (self.number, name, why))
        sys.stdout.flush()

    def note(self, text):
        print('\n'.join('# ' + line for line in str(text).split('\n')))
        sys.stdout.flush()

    def done(self):
        print('1..%d' % self.number)
        sys.exit(1 if self.failed else 0)
