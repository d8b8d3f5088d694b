//! A replicated state machine: primary and backups ordered by viewstamps, views decided by Paxos
