"""conformance_faults.py: the scenarios of conformance.py in which workers, connections, poolers and servers fail."""
import random
import time

from conformance_base import (DATABASE, ROLE, Pooler, Server, Worker, all_complete, check_attempts, check_effects,
                              create_many, done, drain_all, one_step, prepare, size, tap, until)


def kill_workers(session, name, queue, number, times):
    """Two workers, one of which is killed at any point of its life, again and again; the steps last a while."""
    workers = [Worker(queue, lease=0.5) for _ in range(2)]
    kills = 0
    while kills < times and not done(session, name)():
        turn = kills % 2
        # Half of them while they work, half at any time after their start.
        if kills % 4 < 2:
            workers[turn].goes_on(session, name)
        time.sleep(random.uniform(0, 0.2 if kills % 4 < 2 else 1))
        workers[turn].kill()
        workers[turn] = Worker(queue, lease=0.5)
        kills += 1
    return workers, '%d steps, workers killed %d times' % (number, kills)


def killed(session):
    number = size(300, 4000)
    name = one_step(session, 'effect', 'killed', lease='500 ms')
    create_many(session, name, number, 0.02)
    workers, what = kill_workers(session, name, 'killed', number, size(8, 200))
    check_effects(session, name, number, what, workers)
    drain_all(workers)


def killed_plain(session):
    number = size(100, 4000)
    name = one_step(session, 'sleep', 'killed plain', lease='500 ms')
    create_many(session, name, number, 0.02)
    workers, what = kill_workers(session, name, 'killed plain', number, size(2, 200))
    what = 'no transactions, ' + what
    all_complete(session, name, number, what, workers)
    check_attempts(session, name, what)
    drain_all(workers)


def terminated(session):
    times = size(5, 50)
    number = times * 60
    name = one_step(session, 'effect', 'terminated', lease='1 s')
    create_many(session, name, number, 0.02)
    with Worker('terminated', lease=1) as w:
        for _ in range(times):
            w.goes_on(session, name, 10)
            session.query("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                          "WHERE usename = '%s' AND backend_type = 'client backend'" % ROLE)
        check_effects(session, name, number, 'connections terminated %d times' % times, [w])
        tap.ok(w.drain() == 0, 'and the worker ends well', w.output())


def pooled(session):
    """Through pgbouncer, by the client's connections and by the program's own, and when it is killed."""
    what = 'through pgbouncer in transaction mode'
    if not Pooler.PROGRAM:
        tap.skip(what, 'there is no pgbouncer')
        return
    number = size(150, 2000)
    name = one_step(session, 'effect', 'pooled', lease='2 s')
    plain = one_step(session, 'sleep', 'pooled', lease='2 s')
    create_many(session, name, number, 0.02)
    create_many(session, plain, number, 0.02)
    backends = ("SELECT count(*) FROM pg_stat_activity WHERE usename = '%s' AND backend_type = 'client backend'" % ROLE)
    with Pooler() as pooler:
        env = {'PGHOST': pooler.home}
        with Worker('pooled', env=env) as one, Worker('pooled', env=dict(env, CLIENT_OWN='1')) as two:
            one.goes_on(session, name, 20)
            two.goes_on(session, name, 20)
            used = int(session.value(backends))
            pooler.kill()
            pooler.start()
            check_effects(session, name, number, what, (one, two))
            all_complete(session, plain, number, what + ', no transactions', (one, two))
            check_attempts(session, plain, what)
            tap.ok(0 < used <= pooler.SIZE, 'the connections of two workers share %d' % pooler.SIZE, [used])
            statuses = drain_all((one, two))
            for w, status, whose in zip((one, two), statuses, ('its own', "the program's")):
                tap.ok(status == 0 and len(w.begun()) > 20, 'a worker with %s connections works and ends well' % whose,
                       [status, len(w.begun())] + w.output())


FAULTS = (killed, killed_plain, terminated, pooled)


# ---- on servers of our own ------------------------------------------------------

def restart_and_promote():
    with Server() as server:
        with server.session('postgres') as session:
            session.query('CREATE DATABASE ' + DATABASE)
        with server.session() as session:
            prepare(session)
        restarted(server)
        promoted(server)


def restarted(server):
    times = size(5, 20)
    number = times * size(60, 150)
    with server.session() as session:
        name = one_step(session, 'effect', 'restarted', lease='1 s')
        create_many(session, name, number, 0.02)
    with Worker('restarted', lease=1, env={'PGHOST': server.home}) as w:
        for _ in range(times):
            begun = len(w.begun())
            until(lambda: len(w.begun()) > begun + 20)
            server.stop()
            server.start()
        with server.session() as session:
            check_effects(session, name, number, 'server restarted immediately %d times' % times, [w])
        tap.ok(w.drain() == 0, 'and the worker ends well', w.output())


def promoted(primary):
    """The worker knows both servers; the one that it finds first is the standby, before as after."""
    number = size(300, 3000)
    with Server(primary) as standby:
        with primary.session() as session:
            session.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
            session.query('SELECT pg_reload_conf()')
            until(lambda: session.value("SELECT sync_state FROM pg_stat_replication") == 'sync')
            name = one_step(session, 'effect', 'promoted', lease='1 s')
            create_many(session, name, number, 0.02)
        hosts = {'PGHOST': standby.home + ',' + primary.home, 'PGTARGETSESSIONATTRS': 'read-write'}
        with Worker('promoted', lease=1, env=hosts) as w:
            tap.ok(until(lambda: len(w.begun()) > number // 4), 'of two servers a worker finds the one that is no standby',
                   w.output())
            primary.stop()
            standby.promote()
            with standby.session() as session:
                check_effects(session, name, number, 'synchronous standby promoted', [w])
            tap.ok(w.drain() == 0, 'and the worker ends well', w.output())


ON_OWN_SERVERS = (restart_and_promote,)
