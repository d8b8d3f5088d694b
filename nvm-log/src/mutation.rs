//! Known bugs that the tests put back, one at a time, to see that the crash enumerator catches each. Outside this
//! crate's own tests [`active`] is constantly false and the compiler removes the branches.

/// One deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
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
    /// What recovery found is not made durable before it is believed.
    BelieveUnflushed,
    /// A frame does not say how far the log was durable, and neither do control records and witness lines.
    NoWitness,
}

#[cfg(test)]
thread_local! {
    static CURRENT: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Whether this bug is to be shown now, on this thread.
#[inline]
pub(crate) fn active(mutation: Mutation) -> bool {
    #[cfg(test)]
    let active = CURRENT.get() == Some(mutation);
    #[cfg(not(test))]
    let active = {
        let _ = mutation;
        false
    };
    active
}

/// Runs `body` with the bug in place.
#[cfg(test)]
pub(crate) fn with<T>(mutation: Mutation, body: impl FnOnce() -> T) -> T {
    CURRENT.set(Some(mutation));
    let result = body();
    CURRENT.set(None);
    result
}
