//! An append-only log, control slots and snapshots on persistent memory or a file
