"""pgbench.py: pgbench as the load driver of everything that speaks SQL.

Called by the subjects. It is not the bottleneck: its own processor time is
measured and comes back with each sample (driver_cpu, µs per transaction).
"""
import os
import re
import subprocess
import tempfile


def run(cluster, dbname, user, script, clients=1, seconds=None, transactions=None, variables=()):
    """Runs a script; {'transactions', 'latency' in ms, 'driver_cpu' in µs per transaction}."""
    with tempfile.NamedTemporaryFile('w', suffix='.sql', dir=cluster.dir) as file:
        file.write(script)
        file.flush()
        limit = ['-T', str(seconds)] if seconds else ['-t', str(transactions)]
        command = [os.path.join(cluster.bin, 'pgbench'), '-n', '-M', 'prepared', '-c', str(clients), '-j', '1',
                   '-U', user, '-f', file.name] + limit
        for name, value in dict(variables).items():
            command += ['-D', '%s=%s' % (name, value)]
        process = subprocess.Popen(command + [dbname], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # the answer is short, so there is no pipe to fill
        _, status, usage = os.wait4(process.pid, 0)
        output, errors = process.stdout.read(), process.stderr.read()
        process.returncode = os.waitstatus_to_exitcode(status)
    done = int(re.search(r'transactions actually processed: (\d+)', output).group(1)) if 'actually' in output else 0
    if process.returncode != 0 or done == 0:
        raise RuntimeError('pgbench failed:\n%s\n%s' % (output[-2000:], errors[-2000:]))
    return {'transactions': done,
            'latency': float(re.search(r'latency average = ([\d.]+)', output).group(1)),
            'driver_cpu': (usage.ru_utime + usage.ru_stime) * 1e6 / done}
