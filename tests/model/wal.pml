/* wal.pml - SQLite's WAL, two writers, a checkpointing application, and walsup's rules (daemon/DESIGN.md,
 * G1, G2, W1 to W6), for spin to try every order of events.
 *
 * Asserted: whenever the WAL is restarted (its frames will be overwritten), every frame in it was captured,
 * and every frame in it has been copied into the database; walsup never finds that it lost track.
 *
 * One commit is one frame. What SQLite does under a lock that nobody waits for is one step here; what
 * others can get between is not. Names follow SQLite's wal.c where it has one.
 * -DUNSAFE: walsup's guard is dropped between its jobs. -DLATE: the old guard ends before the new one
 * begins. -DBLIND: a handover does not look whether everything is captured. Each has to fail.
 * -DSLEEP: a commit is three steps (its frames, which change the file; its sync; the wal-index, which changes
 * no file), a writer may die in between, and walsup sleeps: it leaves with a record of the files, asks now
 * and then whether they have changed, and comes back. Asserted: as long as they have not, everything that was
 * acknowledged was captured; and whenever it is level with the wal-index, everything that this shows. The
 * record is taken with the write lock. -DNOLOCK takes it without, -DTRUSTING believes a position without a
 * record after other salts: each has to fail.
 * -DOLD_SQLITE: the application's own checkpoint has SQLite's WAL-reset bug as well; from 4 commits on that
 * costs it a frame, when our guard moves out of slot 0 in the middle (tests/engines/reset_race.c
 * --application). With -DPOLITE, a guard that is let go only while nobody checkpoints, it does not; but an
 * application that waits for our guard in a FULL checkpoint would wait in vain, so walsup does not do it. */

#ifndef COMMITS
#define COMMITS 3
#endif
#ifndef WRITERS
#define WRITERS 2
#endif
#define SLOTS 3 /* of readers; SQLite has 5 */
#define UNUSED 255
#define NONE 254

/* the wal-index */
byte n, b, gen;        /* mxFrame, nBackfill, salts */
byte mark[SLOTS];      /* aReadMark */
byte readers[SLOTS];   /* shared locks */
bool write_lock, ckpt_lock;

/* the files: a frame is the number of its commit */
byte wal[COMMITS + 1];
byte commits;
byte in_db, captured;  /* bit sets of commits */
#ifdef SLEEP
byte shown, acked;     /* bit sets: in the wal-index; told to whoever committed */
byte wal_stamp, db_stamp; /* the files' times */
bool asleep, fresh;    /* fresh: back, but no handover since */
#endif

#define bit(k) (1 << (k))

/* walRestartHdr: from now on frames are overwritten */
inline restart_wal()
{
    atomic {
        i = 1;
        do
        :: i <= n ->
#ifdef SLEEP
            assert(asleep || fresh || (captured & bit(wal[i])));
#else
            assert(captured & bit(wal[i]));
#endif
            assert(in_db & bit(wal[i]));
            i++
        :: else -> break
        od;
        i = 0;
        gen++;
        n = 0;
        b = 0;
        mark[1] = 0;
        mark[2] = UNUSED
    }
}

/* walTryBeginRead: read the header, lock a slot, read the header again, and begin anew if it changed. So at
 * the moment of the lock the header was the one that was used, and all of it can be one step. A reader
 * for whom everything is copied takes slot 0, unless it needs the WAL because it has just restarted it;
 * and one that saw nBackfill before the last frame was copied takes another slot all the same. */
inline begin_read(slot, mx, g, use_wal)
{
    atomic {
        if
        :: !use_wal && b == n -> slot = 0
        /* a slot that has this mark, or one that nobody uses and that gets it, or an older mark */
        :: (use_wal || n) && mark[1] == n -> slot = 1
        :: (use_wal || n) && mark[2] == n -> slot = 2
        :: (use_wal || n) && mark[1] != n && mark[2] != n && !readers[1] -> mark[1] = n; slot = 1
        :: (use_wal || n) && mark[1] != n && mark[2] != n && !readers[2] -> mark[2] = n; slot = 2
        :: readers[1] && readers[2] && mark[1] < n -> slot = 1
        :: readers[1] && readers[2] && mark[2] < n -> slot = 2
        fi;
        readers[slot]++;
        mx = n;
        g = gen
    }
}

inline end_read(slot)
{
    atomic { readers[slot]--; slot = NONE }
}

/* walCheckpoint, PASSIVE; the caller has ckpt_lock. Between the look at the header and the look at
 * nBackfill there is no lock against a writer: SQLite's WAL-reset bug. With `fixed` the header is compared
 * once more. walsup's own checkpoints have to be safe without that. */
inline checkpoint(mx, g, safe, fixed)
{
    atomic { mx = n; g = gen };
    atomic {
        safe = (b < mx -> mx : 0);
        i = 1;
        do
        :: i < SLOTS && mark[i] < safe && readers[i] -> safe = mark[i]; i++
        :: i < SLOTS && mark[i] < safe && !readers[i] -> mark[i] = (i == 1 -> safe : UNUSED); i++
        :: i < SLOTS && mark[i] >= safe -> i++
        :: i == SLOTS -> break
        od;
        i = 0
    };
    /* exclusive lock on slot 0, copy, publish nBackfill, unlock */
    atomic {
        if
        :: !readers[0] && b < safe && (!fixed || gen == g) ->
            i = b + 1;
            do
            :: i <= safe -> in_db = in_db | bit(wal[i]); i++
            :: else -> break
            od;
            i = 0;
#ifdef SLEEP
            db_stamp++;
#endif
            b = safe
        :: else -> skip
        fi
    }
}

/* ---- the applications ---- */

proctype writer()
{
    byte slot, mx, g, i;
#ifdef SLEEP
    byte mine;
#endif
    do
    :: commits < COMMITS ->
        begin_read(slot, mx, g, false);
        if
        :: atomic { !write_lock -> write_lock = true };
            if
            :: atomic { n == mx && gen == g && commits < COMMITS -> skip };
                /* walRestartLog */
                if
                :: slot == 0 ->
                    if
                    :: atomic { b > 0 && !readers[1] && !readers[2] -> restart_wal() }
                    :: atomic { !(b > 0 && !readers[1] && !readers[2]) -> skip }
                    fi;
                    end_read(slot);
                    begin_read(slot, mx, g, true)
                :: else -> skip
                fi;
#ifdef SLEEP
                atomic {
                    commits++;
                    mine = commits;
                    wal[n + 1] = mine;
                    wal_stamp++
                };
                if
                :: atomic { n++; shown = shown | bit(mine) }; /* after the sync, which nobody sees */
                    atomic { acked = acked | bit(mine) }
                :: skip /* it dies */
                fi;
                mine = 0
#else
                atomic {
                    commits++;
                    wal[n + 1] = commits;
                    n++ /* the header is written: committed */
                }
#endif
            :: atomic { !(n == mx && gen == g && commits < COMMITS) -> skip }
            fi;
            write_lock = false
        :: atomic { write_lock -> skip }
        fi;
        atomic { end_read(slot); mx = 0; g = 0 }
    :: else -> break
    od
}

/* PASSIVE, and TRUNCATE, which is the one that restarts the WAL by itself */
proctype checkpointer()
{
    byte mx, g, safe, i;
    bool truncate;
    do
    :: atomic { !ckpt_lock -> ckpt_lock = true };
        truncate = false;
        if
        :: atomic { !write_lock -> write_lock = true; truncate = true }
        :: skip
        fi;
#ifdef OLD_SQLITE
        checkpoint(mx, g, safe, false);
#else
        checkpoint(mx, g, safe, true);
#endif
        if
        :: atomic { truncate && n > 0 && b == n && !readers[1] && !readers[2] -> restart_wal() }
        :: else -> skip
        fi;
        atomic {
            if
            :: truncate -> write_lock = false
            :: else -> skip
            fi;
            mx = 0;
            g = 0;
            safe = 0;
            ckpt_lock = false
        }
    :: commits == COMMITS -> break
    od
}

/* ---- walsup ---- */

/* The position, and whether a restart is known to lose nothing. */
byte pos_gen, pos_frame;
bool restartable = true;
byte guard = NONE, newer = NONE; /* slots */

/* Level with the wal-index: then all that it shows was captured. */
inline level()
{
#ifdef SLEEP
    assert(gen != pos_gen || n != pos_frame || !(shown & ~captured))
#else
    skip
#endif
}

/* capture_range: frames up to n, used only if the salts are the same afterwards. Right after it came back, and
 * only then, the guard may not have kept what was there before it: continuity is lost, and seen. */
#ifdef SLEEP
#define lost(there) (fresh && !(there))
#else
#define lost(there) false
#endif
inline every_page()
{
#ifdef SLEEP
    captured = captured | shown;
    pos_gen = gen;
    pos_frame = n;
    restartable = false
#else
    skip
#endif
}

inline capture()
{
    atomic { xn = n; xg = gen };
    assert(xg == pos_gen || restartable || lost(false)); /* W3: else continuity is lost */
    atomic {
        i = (xg == pos_gen -> pos_frame : 0) + 1;
        do
        :: i <= xn -> got = got | bit(wal[i]); i++
        :: else -> break
        od;
        i = 0
    };
    atomic {
        if
        :: lost(gen == xg && (xg == pos_gen || restartable)) -> every_page()
        :: !lost(gen == xg && (xg == pos_gen || restartable)) && got ->
            assert(gen == xg); /* W8: else nothing of it may be used, and continuity is lost */
            captured = captured | got; pos_gen = xg; pos_frame = xn; restartable = false
        :: else -> skip
        fi;
        level();
        got = 0;
        xn = 0;
        xg = 0
    }
}

inline handover()
{
#ifdef LATE
    end_read(guard);
#endif
    begin_read(newer, mx, g, false);
    do
    :: atomic { xn = n; xb = b; xg = gen };
        if
        :: xn != xb ->
            if
            :: xg == pos_gen && pos_frame < xn -> restartable = false
            :: else -> skip
            fi;
            break
#ifdef BLIND
        :: xn == xb -> restartable = true; break
#else
        :: xn == xb && xg == pos_gen && pos_frame == xn -> restartable = true; break
        :: xn == xb && xg != pos_gen && !xn && restartable -> atomic { pos_gen = xg; pos_frame = 0 }; break
        :: else -> capture()
#endif
        fi
    od;
#ifdef POLITE
    atomic {
        if
        :: !ckpt_lock -> end_read(guard); guard = newer
        :: else -> end_read(newer)
        fi
    };
    newer = guard;
#else
#ifndef LATE
    end_read(guard);
#endif
#endif
    atomic {
        guard = newer;
        newer = NONE;
#ifdef SLEEP
        fresh = fresh && xg != pos_gen;
#endif
        mx = 0;
        g = 0;
        xn = 0;
        xb = 0;
        xg = 0
    }
}

inline passive()
{
    if
    :: atomic { !ckpt_lock -> ckpt_lock = true };
        checkpoint(mx, g, safe, false);
        atomic { mx = 0; g = 0; safe = 0; ckpt_lock = false }
    :: atomic { ckpt_lock -> skip } /* busy */
    fi
}

#ifdef SLEEP
/* source_detach: the record, and then the guard is let go of. */
inline fall_asleep()
{
    atomic {
        if
#ifdef NOLOCK
        :: true -> skip
#else
        :: !write_lock -> write_lock = true
#endif
        :: true -> barrier = true /* busy: no proof, and it may leave without one */
        fi
    };
    atomic { got = wal_stamp; safe = db_stamp };
    atomic { xn = n; xb = b; xg = gen };
    atomic {
        proven = !barrier && xn == xb && xg == pos_gen && pos_frame == xn && restartable && got == wal_stamp &&
                 safe == db_stamp;
#ifndef NOLOCK
        if
        :: !barrier -> write_lock = false
        :: else -> skip
        fi;
#endif
        barrier = false;
        xn = 0;
        xb = 0;
        xg = 0;
        asleep = true;
        fresh = false
    };
    end_read(guard)
}

/* source_asleep: the files are as they were, so nothing has happened. */
inline doze()
{
    atomic {
        if
        :: proven && got == wal_stamp && safe == db_stamp -> assert(!(acked & ~captured))
        :: else -> skip
        fi
    }
}

/* source_attach, resume */
inline wake_up()
{
    begin_read(guard, mx, g, false);
    atomic {
        asleep = false;
        fresh = true;
        if
        :: gen == pos_gen && n >= pos_frame && (!proven || n > pos_frame || safe == db_stamp) ->
            restartable = n == b && n == pos_frame
#ifdef TRUSTING
        :: gen != pos_gen ->
#else
        :: gen != pos_gen && proven && safe == db_stamp ->
#endif
            pos_gen = gen;
            pos_frame = 0;
            restartable = n == 0
        :: else -> every_page()
        fi;
        level();
        proven = false;
        got = 0;
        safe = 0;
        mx = 0;
        g = 0
    }
}
#endif

/* In any order: more than the daemon does (the cycle W5: handover, PASSIVE, handover; the barrier W6: the
 * same with the write lock; a plain capture: capture, handover). */
proctype walsup()
{
    byte mx, g, xn, xb, xg, got, safe, i;
    bool barrier;
#ifdef SLEEP
    bool proven;
#endif
end:
    do
    :: capture()
    :: handover()
    :: passive()
    :: atomic { !barrier && !write_lock -> write_lock = true; barrier = true }
    :: atomic { barrier -> write_lock = false; barrier = false }
#ifdef UNSAFE
    :: end_read(guard); begin_read(guard, mx, g, false); atomic { mx = 0; g = 0 }
#endif
#ifdef SLEEP
    :: atomic { !barrier -> skip };
        fall_asleep();
        do
        :: doze()
        :: break
        od;
        wake_up()
#endif
    od
}

init {
    byte i, mx, g;
    mark[1] = 0;
    mark[2] = UNUSED;
    begin_read(guard, mx, g, false); /* attached, and everything is captured */
    atomic {
        run writer();
#if WRITERS > 1
        run writer();
#endif
        run checkpointer();
        run walsup()
    }
}
