//! All metrics of a member. What stands here as help stands in docs/operations.md too.

use super::page::{Family, Kind};

/// Declares the families.
macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal $help:literal;)*) => {
        $(pub(super) const $constant: Family =
            Family { name: concat!("plumeria_", $name), kind: Kind::$kind, help: $help };)*
    };
}

families! {
    INFO: Gauge "info" "Always 1; the labels say the version, the member, the cluster's name, and what the log survives.";
    START: Gauge "start_time_seconds" "When the process began to serve its port, seconds since 1970.";
    MEMORY: Gauge "resident_memory_bytes" "Memory of the process that is in RAM.";

    SERVING: Gauge "serving" "1 while the member does what it is for: a primary that answers, or a backup that hears from one.";
    ROLE: Gauge "role" "1 for the role that the member has in its view, 0 for the others.";
    VIEW: Gauge "view" "Number of the last view that the member knows; 0 before the cluster is founded.";
    VIEW_CHANGES: Counter "view_changes_total" "Views that the member learnt of since it started.";
    TERMS: Counter "terms_total" "How often the member began to serve as primary since it started.";
    MEMBERS: Gauge "members" "Members in the view, by what they are.";
    LAST_OP: Gauge "last_op" "Last op in the member's log.";
    COMMIT_OP: Gauge "commit_op" "Last op that the member knows to be committed.";
    APPLIED_OP: Gauge "applied_op" "Last op that the member has executed.";
    LAG: Gauge "member_lag_ops" "Ops by which a member's acknowledgement is behind the log; from the primary only.";
    MESSAGES_DROPPED: Counter "member_messages_dropped_total" "Messages from other members dropped because too much waited.";
    MEMBERS_BROKEN: Counter "member_connections_broken_total" "Connections of other members closed because of what came over them.";

    LOG: Gauge "log_bytes" "Size of the log. From half of the room on a snapshot is taken, at three quarters clients are refused.";
    LOG_ROOM: Gauge "log_capacity_bytes" "Room of the log.";
    LOG_WRITTEN: Counter "log_written_bytes_total" "Bytes written to the log on the medium.";
    FLUSH: Histogram "flush_seconds" "Time of flushes of the medium: all of a file, one in 64 of memory.";
    SCRUBBED: Counter "scrubbed_bytes_total" "Bytes of log and snapshots that were read again to find damage.";
    SCRUB_FOUND: Counter "scrub_findings_total" "Pieces of damage found so; what the member has in memory is stored again.";
    SNAPSHOTS: Counter "snapshots_total" "Snapshots of the own state that became durable.";
    SNAPSHOT_TIME: Counter "snapshot_seconds_total" "Time of all those snapshots, each from its first part until it was durable.";
    SNAPSHOT_LAST: Gauge "snapshot_last_seconds" "Time of the last snapshot.";
    SNAPSHOT_SIZE: Gauge "snapshot_last_bytes" "Size of the last snapshot.";

    SESSIONS: Gauge "sessions" "Sessions, those included that have ended and are not cleaned up yet.";
    LOCKS: Gauge "locks" "Locks that somebody holds.";
    WAITERS: Gauge "waiters" "Acquires that wait, over all locks.";
    KEPT: Gauge "dead_sessions" "Dead sessions whose locks are not free, by what these wait for: the end of a lock delay, a recovery under way, anybody to recover them.";
    OPENED: Counter "sessions_opened_total" "Sessions opened.";
    CLOSED: Counter "sessions_closed_total" "Sessions that their clients closed.";
    EXPIRED: Counter "sessions_expired_total" "Sessions whose lease ran out.";
    LOST: Counter "tenures_lost_total" "Locks whose holders' lease ran out while they held them.";
    FORCED: Counter "tenures_forced_total" "Locks taken from their holders by an operator.";
    GRANTS: Counter "grants_total" "Locks granted: at once, or to one who had waited.";
    WAIT: Histogram "wait_seconds" "Service time for which those who waited had to; those who gave up do not count.";
    HOLD: Histogram "hold_seconds" "Service time for which sessions had a lock, kept in the client's cache or in use.";
    REVOKES: Counter "revokes_total" "Holders asked to give up a lock because somebody else wants it; from the primary only.";

    REQUESTS: Counter "requests_total" "Requests of clients, repetitions included, by kind.";
    REFUSALS: Counter "refusals_total" "Requests that were refused, by reason.";
    ACQUIRE: Histogram "acquire_seconds" "Time from reading an acquire to answering it with granted or queued.";
    CALLBACKS: Counter "callbacks_total" "Calls back to clients (revokes, grants), by what became of them.";
    CONNECTIONS: Gauge "connections" "Open connections, by who they said they are.";
    TURNED_AWAY: Counter "connections_refused_total" "Connections that were turned away, by reason.";
}
