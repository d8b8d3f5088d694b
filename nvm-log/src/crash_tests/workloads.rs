//! What is done before the crash. Together they reach every kind of frame, record and snapshot, and a ring that wraps.

use super::run::Step::{self, *};

pub(super) fn batches_and_control() -> Vec<Step> {
    vec![
        Append(1, 16),
        Append(3, 100),
        Flush,
        Control,
        Append(2, 60),
        Flush,
        Append(1, 64),
        Append(1, 0),
        Append(2, 128),
        Flush,
        Control,
        Flush,
        Control,
        Control,
        Append(1, 10),
        Flush,
    ]
}

pub(super) fn truncations() -> Vec<Step> {
    vec![
        Append(2, 40),
        Append(2, 40),
        Append(2, 40),
        Append(2, 40),
        Flush,
        Truncate(3),
        Flush,
        Append(1, 40),
        Flush,
        Append(2, 30),
        Truncate(2),
        Append(2, 40),
        Control,
        Flush,
        Reopen,
        Append(1, 8),
        Truncate(2),
        Append(1, 8),
        Flush,
    ]
}

/// Snapshots in parts, with everything else between them; and two that are never finished.
pub(super) fn snapshots_in_parts() -> Vec<Step> {
    vec![
        Append(2, 40),
        Part(90),
        Append(1, 20),
        Flush,
        Part(70),
        Control,
        Finish(1),
        Append(2, 20),
        Flush,
        Part(50),
        Append(1, 20),
        Truncate(1),
        Part(8),
        Flush,
        Finish(1),
        Append(1, 4),
        Part(40),
        Flush,
        Install(2, false),
        Append(1, 7),
        Part(30),
        Flush,
        Reopen,
        Append(1, 9),
        Part(60),
        Flush,
        Finish(0),
        Flush,
    ]
}

/// The bytes under one checksum come in two parts, and the second part has bytes under the next one.
pub(super) fn parts_across_checksums() -> Vec<Step> {
    vec![Append(1, 20), Part(65_000), Append(1, 20), Flush, Part(3_000), Finish(0), Flush]
}

pub(super) fn snapshots() -> Vec<Step> {
    vec![
        Append(2, 40),
        Control,
        Snapshot(1),
        Append(1, 30),
        Flush,
        Append(3, 10),
        Snapshot(1),
        Flush,
        Append(1, 4),
        Install(0, true),
        Append(1, 9),
        Install(4, false),
        Append(2, 20),
        Flush,
        Append(1, 20),
        Install(3, true),
        Append(1, 1),
        Flush,
    ]
}

/// Log, record, snapshot and truncation within one group, before and after the head moves.
pub(super) fn everything_together() -> Vec<Step> {
    vec![
        Append(3, 30),
        Truncate(1),
        Append(1, 20),
        Control,
        Snapshot(2),
        Truncate(1),
        Append(2, 50),
        Control,
        Flush,
        Append(1, 70),
        Truncate(2),
        Snapshot(0),
        Append(1, 10),
        Control,
        Flush,
        Reopen,
        Truncate(1),
        Append(1, 33),
        Control,
        Install(1, false),
        Append(1, 12),
        Flush,
    ]
}

pub(super) fn laps() -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..8 {
        steps.extend([Append(2, 1500), Append(1, 900), Control, Flush, Append(1, 700 + 64 * round), Flush]);
        if round % 2 == 1 {
            steps.extend([Snapshot(2), Append(1, 64), Flush]);
        }
    }
    steps
}

/// The log is nearly full, its head moves, and the same flush brings more than was free before.
pub(super) fn full_ring() -> Vec<Step> {
    let mut steps = vec![Append(1, 1500); 9];
    steps.extend([Flush, Snapshot(0)]);
    steps.extend(vec![Append(1, 1500); 4]);
    steps.push(Flush);
    steps
}

pub(super) fn process_crashes() -> Vec<Step> {
    vec![
        Append(1, 20),
        Control,
        Flush,
        Append(1, 20),
        Append(1, 20),
        Control,
        Reopen,
        Append(2, 70),
        Flush,
        Snapshot(0),
        Reopen,
        Append(1, 3),
        Flush,
    ]
}

/// Frames that are stored but not flushed, with one flush that ends none of them early: the tail of which a crash keeps any part.
pub(super) fn equal_frames() -> Vec<Step> {
    vec![Append(1, 64), Flush, Append(1, 64), Append(1, 64), Append(1, 64), Flush]
}

/// The same frames again, so that what was dropped would fit on if nothing told the lives apart.
pub(super) fn again() -> Vec<Step> {
    vec![Append(1, 64), Flush, Append(2, 40), Control, Flush]
}
