"""pgbench.py: pgbench as the load driver of everything that speaks SQL.

Called by the subjects. It is not the bottleneck: its own processor time is
measured, as that of every driver (driver_share).
"""
import os
import re
import resource
import subprocess
import tempfile
import time


def timed(command, **more):
    """Runs a program; what it printed, and the share of one processor that it used."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    process = subprocess.run(command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, **more)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return process, used / (time.time() - began)


def run(cluster, dbname, user, script, clients=1, seconds=None, transactions=None, variables=()):
    """Runs a script; {'transactions', 'latency' in ms, 'driver_share'}."""
    with tempfile.NamedTemporaryFile('w', suffix='.sql', dir=cluster.dir) as file:
        file.write(script)
        file.flush()
        limit = ['-T', str(seconds)] if seconds else ['-t', str(transactions)]
        command = [os.path.join(cluster.bin, 'pgbench'), '-n', '-M', 'prepared', '-c', str(clients), '-j', '1',
                   '-U', user, '-f', file.name] + limit
        for name, value in dict(variables).items():
            command += ['-D', '%s=%s' % (name, value)]
        process, share = timed(command + [dbname])
        output, errors = process.stdout, process.stderr
    done = int(re.search(r'transactions actually processed: (\d+)', output).group(1)) if 'actually' in output else 0
    if process.returncode != 0 or done == 0:
        raise RuntimeError('pgbench failed:\n%s\n%s' % (output[-2000:], errors[-2000:]))
    return {'transactions': done,
            'latency': float(re.search(r'latency average = ([\d.]+)', output).group(1)),
            'driver_share': share}
