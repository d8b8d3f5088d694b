//! Known bugs that tests put back, one at a time, to see that they are caught: by the crash enumerator, and by a
//! simulator of a whole cluster. In a normal build [`active`] is constantly false and the compiler removes the branches.

#![cfg_attr(not(feature = "mutants"), allow(unreachable_pub, reason = "public for the simulator only"))]

/// One deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Neither the epoch nor the chain of checksums is looked at.
    NoChain,
    /// The epoch does not grow when a store is opened.
    SameEpoch,
    /// A truncation moves the tail back instead of appending.
    RewindingTruncate,
    /// The control record is written over itself.
    SingleControlSlot,
    /// Control record and frames go out together, the record first, with one flush.
    ControlBeforeFrames,
    /// A flush does not flush the frames.
    NoFlush,
    /// The body's checksum is not looked at.
    NoBodyChecksum,
    /// The position in a frame's header is not looked at, so that frames of an older lap count.
    NoLap,
    /// Space is reused before the moved head is durable.
    EagerReuse,
    /// A snapshot is switched to before it is durable.
    SwitchBeforeSnapshot,
    /// The parts of a snapshot go over the newest one.
    PartsOverNewest,
    /// What recovery found is not made durable before it is believed.
    BelieveUnflushed,
    /// A frame does not say how far the log was durable, and neither do control records and witness lines.
    NoWitness,
    /// Where the snapshot lets reading begin is believed, whatever is found there.
    TrustedIndex,
    /// A repair leads around the damage before it is durable itself.
    BridgeBeforeRepair,
    /// What a witness line says of the log's reach is believed of one line alone.
    LoneReach,
    /// A way around a damaged truncation is gone again without dropping what it dropped.
    BridgeForgetsTruncation,
}

/// Every one of them, for the crash enumerator.
#[cfg(test)]
pub(crate) const ALL: [Mutation; 17] = [
    Mutation::NoChain,
    Mutation::SameEpoch,
    Mutation::RewindingTruncate,
    Mutation::SingleControlSlot,
    Mutation::ControlBeforeFrames,
    Mutation::NoFlush,
    Mutation::NoBodyChecksum,
    Mutation::NoLap,
    Mutation::EagerReuse,
    Mutation::SwitchBeforeSnapshot,
    Mutation::PartsOverNewest,
    Mutation::BelieveUnflushed,
    Mutation::NoWitness,
    Mutation::TrustedIndex,
    Mutation::BridgeBeforeRepair,
    Mutation::LoneReach,
    Mutation::BridgeForgetsTruncation,
];

/// Those that a whole cluster has shown, with their names on the command line. The others were not seen in a hundred seeds
/// of the simulator: they need coincidences that only the crash enumerator brings about.
#[cfg(feature = "mutants")]
pub const MUTANTS: [(&str, Mutation); 8] = [
    ("log-rewinding-truncate", Mutation::RewindingTruncate),
    ("log-single-control-slot", Mutation::SingleControlSlot),
    ("log-no-flush", Mutation::NoFlush),
    ("log-no-body-checksum", Mutation::NoBodyChecksum),
    ("log-no-lap", Mutation::NoLap),
    ("log-switch-before-snapshot", Mutation::SwitchBeforeSnapshot),
    ("log-believe-unflushed", Mutation::BelieveUnflushed),
    ("log-no-witness", Mutation::NoWitness),
];

#[cfg(any(test, feature = "mutants"))]
thread_local! {
    static CURRENT: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Whether this bug is to be shown now, on this thread.
#[inline]
pub(crate) fn active(mutation: Mutation) -> bool {
    #[cfg(any(test, feature = "mutants"))]
    let active = CURRENT.get() == Some(mutation);
    #[cfg(not(any(test, feature = "mutants")))]
    let active = {
        let _ = mutation;
        false
    };
    active
}

/// Puts the bug into every store of this thread, or with `None` takes it out.
#[cfg(any(test, feature = "mutants"))]
pub fn put_back(mutation: Option<Mutation>) {
    CURRENT.set(mutation);
}

/// Runs `body` with the bug in place.
#[cfg(test)]
pub(crate) fn with<T>(mutation: Mutation, body: impl FnOnce() -> T) -> T {
    put_back(Some(mutation));
    let result = body();
    put_back(None);
    result
}
