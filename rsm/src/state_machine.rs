//! What rsm replicates: anything that turns an ordered sequence of opaque commands into answers, deterministically.

/// A deterministic state machine.
///
/// The same ops give the same state and answers on every member: no clock, random number, address, thread or hash order
/// may enter [`StateMachine::apply`]. rsm calls it for each committed op once, in order, op numbers rising; numbers that
/// rsm used for itself (barriers) are left out.
pub trait StateMachine {
    /// Executes a command. Total: whatever the bytes are, it answers, and never panics.
    fn apply(&mut self, op: u64, command: &[u8]) -> Vec<u8>;

    /// The whole state, in bytes that depend on nothing but the ops executed.
    fn snapshot(&self) -> Vec<u8>;

    /// Begins a snapshot of the state as it is now and gives its first part, of about `budget_bytes`; one that was begun before is
    /// forgotten. Ops are executed between the parts and must not show in them: joined, they are what
    /// [`StateMachine::snapshot`] gives now. The default gives the whole at once, which is right where that takes less than a
    /// millisecond.
    fn begin_snapshot(&mut self, budget_bytes: usize) -> SnapshotPart {
        let _ = budget_bytes;
        SnapshotPart { bytes: self.snapshot(), is_last: true }
    }

    /// The next part. Called only after one that was not the last, of a snapshot that was not abandoned.
    fn next_snapshot_part(&mut self, budget_bytes: usize) -> SnapshotPart {
        unreachable!("the first part, of {budget_bytes} bytes or more, was the last")
    }

    /// Nobody will ask for the rest of the snapshot that was begun.
    fn abandon_snapshot(&mut self) {}

    /// Replaces the whole state by a snapshot's, whose bytes rsm has found to be whole; also abandons one that was begun.
    ///
    /// # Errors
    /// The bytes are no snapshot of this machine; one line that says what is wrong. The state is then not used any more.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;

    /// A running hash over everything executed; equal at equal op on all members, or a member has gone wrong.
    fn hash(&self) -> u64;
}

/// A piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    /// The bytes that follow those of the part before.
    pub bytes: Vec<u8>,
    /// It ends with them.
    pub is_last: bool,
}

/// A state machine with a shell around it, told on the replica thread what it may act on. Nothing here decides anything.
pub trait Application: StateMachine + Send + 'static {
    /// This member is primary and its view's barrier is committed and executed: the state is current, and what follows
    /// from it (notices to clients) is to be derived anew.
    fn serving(&mut self);

    /// This member does not serve any longer.
    fn stopped_serving(&mut self);

    /// Ops were executed since the last call; only called while serving.
    fn executed(&mut self);
}
