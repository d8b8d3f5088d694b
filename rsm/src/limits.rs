//! Every bound of this crate in one place, with its unit and reason.

/// Ops in one entry: beyond some hundreds a batch gains nothing.
pub const BATCH_MAX_OPS: usize = 1024;
/// Commands of one entry, bytes: a quarter of a frame on the wire. Less where a sixteenth of the log's room is less.
pub const BATCH_MAX_BYTES: usize = 512 << 10;
/// One command, bytes.
pub const COMMAND_MAX_BYTES: usize = 64 << 10;
/// Entries on their way at a time: enough to keep the medium and the wire busy, few enough that a fail-over has little
/// to settle.
pub const WINDOW_ENTRIES: usize = 16;
/// Commands that wait for a place in the window; more are refused as busy.
pub const WAITING_MAX_COMMANDS: usize = 64 << 10;
/// Entries in one Append or Entries message, bytes; one entry at least. Small, because a message keeps the thread that all
/// connections share busy, and heartbeats wait behind it.
pub const MESSAGE_MAX_BYTES: usize = 256 << 10;
/// Entries on their way to one member and not acknowledged, bytes: a laggard is fed as fast as it swallows, and no faster.
pub const OUTSTANDING_MAX_BYTES: usize = 2 * BATCH_MAX_BYTES;
/// What one step adds to a snapshot, bytes: well below a millisecond of work, and of writing.
pub const SNAPSHOT_PART_BYTES: usize = 128 << 10;
/// Commands of the log that one step frees when a snapshot has made them superfluous: half a millisecond.
pub const RELEASED_MAX_COMMANDS: usize = 4096;
/// Parts of a superseded snapshot that one step frees.
pub const SHED_MAX_PARTS: usize = 4;
/// A piece of a snapshot on its way to another member, bytes.
pub const CHUNK_MAX_BYTES: usize = 256 << 10;
/// A snapshot that a member takes from another, bytes: what a hostile or broken peer could make us hold.
pub const SNAPSHOT_MAX_BYTES: u64 = 4 << 30;
/// Remembered (op, hash) pairs for comparing states: some seconds of batches.
pub const HASHES_KEPT: usize = 1024;

const _: () = assert!(COMMAND_MAX_BYTES <= BATCH_MAX_BYTES && BATCH_MAX_BYTES <= OUTSTANDING_MAX_BYTES);
const _: () = assert!(SNAPSHOT_PART_BYTES <= CHUNK_MAX_BYTES);
const _: () = assert!(CHUNK_MAX_BYTES <= MESSAGE_MAX_BYTES);
