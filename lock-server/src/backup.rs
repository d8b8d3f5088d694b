//! Backups: states that are held while a client fetches them, part by part.
//!
//! Why it is right: what is held is a snapshot of rsm's, the state after one committed op, and its bytes never change; so its parts fit
//! together although the member goes on. Why it harms nobody: one is held at a time, which costs the memory of one more snapshot at most,
//! until its last part is fetched or nobody asks any more; taking it is done part by part, as every snapshot is.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lock_protocol::{BACKUP_PART_MAX_BYTES, BackupAnswer, BackupHeader, BackupRequest, Refusal};
use parking_lot::Mutex;
use rsm::{Handle, SnapshotImage};
use tokio::time::Instant;

/// A state for which nobody asks any more is let go after so long.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// The state that is held, if there is one.
pub(crate) struct Backups {
    handle: Handle,
    /// The cluster's name.
    name: String,
    held: Mutex<Held>,
}

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    /// One is being taken.
    Coming,
    State {
        op: u64,
        image: Arc<SnapshotImage>,
        asked_at: Instant,
    },
}

/// The place of a state that is being taken; given back if it does not come.
struct Place<'a>(&'a Backups);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut held = self.0.held.lock();
        if matches!(*held, Held::Coming) {
            *held = Held::Nothing;
        }
    }
}

impl Backups {
    pub(crate) fn new(handle: Handle, name: String) -> Self {
        Backups { handle, name, held: Mutex::default() }
    }

    pub(crate) async fn answer(self: &Arc<Self>, request: BackupRequest) -> Result<BackupAnswer, Refusal> {
        match request {
            BackupRequest::Begin => self.begin().await.map(BackupAnswer::Begun),
            BackupRequest::Part { op, offset } => self.part(op, offset).map(BackupAnswer::Part),
        }
    }

    async fn begin(self: &Arc<Self>) -> Result<BackupHeader, Refusal> {
        {
            let mut held = self.held.lock();
            if !held.is_free() {
                return Err(Refusal::Busy("another backup is being fetched from this member".into()));
            }
            *held = Held::Coming;
        }
        let place = Place(self);
        let image = self.handle.snapshot().await;
        let image =
            image.ok_or_else(|| Refusal::Invalid("this member holds no state: ask a replica that serves".into()))?;
        let summed = Arc::clone(&image);
        let checksum = tokio::task::spawn_blocking(move || summed.from(0).fold(0, crc32c::crc32c_append));
        let state_crc32c = checksum.await.map_err(|_| Refusal::ViewChanging)?;
        let header = BackupHeader {
            cluster: self.handle.status().view.as_ref().map_or(0, |view| view.cluster.0),
            name: self.name.clone(),
            member: self.handle.member().0,
            view: image.viewstamp.view,
            op: image.viewstamp.op,
            taken_us: now_us(),
            state_bytes: image.size_bytes(),
            state_crc32c,
        };
        *self.held.lock() = Held::State { op: header.op, image, asked_at: Instant::now() };
        drop(place);
        drop(tokio::spawn(Arc::clone(self).let_go()));
        tracing::info!(op = header.op, bytes = header.state_bytes, "a backup is fetched");
        Ok(header)
    }

    fn part(&self, wanted: u64, offset: u64) -> Result<Vec<u8>, Refusal> {
        let mut held = self.held.lock();
        let (image, asked_at) = match &mut *held {
            Held::State { op, image, asked_at } if *op == wanted => (image, asked_at),
            _ => return Err(Refusal::Invalid(format!("the backup of op {wanted} is not held any more: begin again"))),
        };
        *asked_at = Instant::now();
        let mut part = Vec::new();
        for piece in image.from(offset) {
            let room = BACKUP_PART_MAX_BYTES - part.len();
            part.extend_from_slice(&piece[..piece.len().min(room)]);
            if part.len() == BACKUP_PART_MAX_BYTES {
                break;
            }
        }
        if offset.saturating_add(part.len() as u64) >= image.size_bytes() {
            *held = Held::Nothing;
        }
        Ok(part)
    }

    /// Waits until nobody asks any more.
    async fn let_go(self: Arc<Self>) {
        loop {
            let until = match &*self.held.lock() {
                Held::State { asked_at, .. } => *asked_at + IDLE_MAX,
                _ => return,
            };
            tokio::time::sleep_until(until).await;
            let mut held = self.held.lock();
            if held.is_free() {
                *held = Held::Nothing;
            }
        }
    }
}

impl Held {
    fn is_free(&self) -> bool {
        match self {
            Held::Nothing => true,
            Held::Coming => false,
            Held::State { asked_at, .. } => asked_at.elapsed() >= IDLE_MAX,
        }
    }
}

/// µs since 1970; 0 where the clock stands before that.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
