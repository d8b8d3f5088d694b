//! Log and state of a member that has lost its memory, fetched from its guard before it says anything to anybody (S14).
//!
//! Why it is right: the guard hands out what it has only from the very memory that is asked for, and only to the incarnation that its view
//! lists. It takes snapshot and log at one moment between two steps, so they fit together, and its view is not below any entry of them.
//! What arrives is used only as a whole: the snapshot with its digest, the entries in one chain behind it. Nothing else is lost by an
//! attempt that fails: the member is a new incarnation then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tarpc::{client, context};
use wire::{Endpoint, Expected, Hello, Role, Tls};

use super::link::MemberServiceClient;
use crate::limits::{CHUNK_MAX_BYTES, MESSAGE_MAX_BYTES, SNAPSHOT_MAX_BYTES};
use crate::{ClusterId, Entry, Guard, Identity, MemoryId, SnapshotImage, View, Viewstamp};

/// A guard out of reach is waited for as long as its process may take to start.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(100);
/// Connecting, and the answer to a request: a guard takes one between two steps.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What is asked of a guard, over one connection: the beginning, then what that says there is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum CopyRequest {
    /// A copy of what this memory holds now.
    Begin(MemoryId),
    /// The copy's snapshot, from this place on.
    Snapshot {
        /// Bytes.
        offset: u64,
    },
    /// The copy's entries, from this one on.
    Entries {
        /// Counted from 0.
        first: u64,
    },
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum CopyAnswer {
    /// There is no such copy; one line says why.
    Refused(String),
    /// Not now.
    Later,
    /// What there is.
    Begun {
        /// The last view that the guard has entered.
        view: View,
        /// Place, size in bytes, digest.
        snapshot: Option<(Viewstamp, u64, u64)>,
        /// How many entries lie behind the snapshot.
        entries: u64,
    },
    /// A piece, at most [`CHUNK_MAX_BYTES`].
    Snapshot(#[serde(with = "crate::octets::one")] Vec<u8>),
    /// Some entries, one at least while there are any, at most [`MESSAGE_MAX_BYTES`] otherwise.
    Entries(Vec<Arc<Entry>>),
}

/// What a guard holds, at one moment.
#[derive(Debug)]
pub(super) struct LogCopy {
    pub(super) view: View,
    pub(super) snapshot: Option<Arc<SnapshotImage>>,
    pub(super) entries: Vec<Arc<Entry>>,
}

/// What was fetched of it.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) view: Option<View>,
    pub(super) snapshot: Option<Arc<SnapshotImage>>,
    pub(super) entries: Vec<Entry>,
}

/// The copy that is being handed out over a connection.
pub(super) type Lent = Mutex<Option<LogCopy>>;

impl LogCopy {
    /// What there is.
    pub(super) fn begun(&self) -> CopyAnswer {
        let image = self.snapshot.as_ref();
        CopyAnswer::Begun {
            view: self.view.clone(),
            snapshot: image.map(|image| (image.viewstamp, image.size_bytes(), image.digest())),
            entries: self.entries.len() as u64,
        }
    }

    /// A piece of it.
    pub(super) fn piece(&self, request: CopyRequest) -> CopyAnswer {
        match request {
            CopyRequest::Begin(_) => self.begun(),
            CopyRequest::Snapshot { offset } => {
                let bytes = self.snapshot.iter().flat_map(|image| image.from(offset)).flatten();
                CopyAnswer::Snapshot(bytes.copied().take(CHUNK_MAX_BYTES).collect())
            }
            CopyRequest::Entries { first } => {
                let first = usize::try_from(first).map_or(self.entries.len(), |first| first.min(self.entries.len()));
                let mut bytes = 0;
                let fit = self.entries[first..].iter().take_while(|entry| {
                    let is_first = bytes == 0;
                    bytes += entry.size_bytes();
                    is_first || bytes <= MESSAGE_MAX_BYTES
                });
                CopyAnswer::Entries(fit.cloned().collect())
            }
        }
    }
}

/// Fetches the copy that this guard holds; none if it has it no more, or cannot be reached in time. Keeps the caller's thread waiting.
pub(super) fn fetch(
    own: Identity,
    cluster: ClusterId,
    guard: Guard,
    endpoints: &[Endpoint],
    tls: Option<&Tls>,
) -> Option<Copied> {
    let began = Instant::now();
    // A thread and runtime of its own: the caller's may be busy with nothing but waiting for this.
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(attempts((own, cluster), guard, endpoints, tls))
    };
    let result = std::thread::scope(|scope| scope.spawn(work).join());
    let result = result.unwrap_or_else(|_| Err("the attempt failed an assertion: this is a bug".into()));
    let elapsed_ms = began.elapsed().as_secs_f64() * 1e3;
    match result {
        Ok(copied) => {
            let snapshot_bytes = copied.snapshot.as_ref().map_or(0, |image| image.size_bytes());
            let (guard, entries) = (guard.member.0, copied.entries.len());
            tracing::info!(guard, snapshot_bytes, entries, elapsed_ms, "log and state are restored from the guard");
            Some(copied)
        }
        Err(why) => {
            tracing::info!(guard = guard.member.0, why, elapsed_ms, "log and state are not restored");
            None
        }
    }
}

/// Why an attempt came to nothing.
enum Failure {
    /// The guard says so.
    Refused(String),
    /// It may go better the next time.
    Broken(String),
}

async fn attempts(
    own: (Identity, ClusterId),
    guard: Guard,
    endpoints: &[Endpoint],
    tls: Option<&Tls>,
) -> Result<Copied, String> {
    let until = Instant::now() + PATIENCE;
    let mut problem = "no address of it is known".to_owned();
    loop {
        for endpoint in endpoints {
            match attempt(own, guard, endpoint, tls).await {
                Ok(copied) => return Ok(copied),
                Err(Failure::Refused(why)) => return Err(why),
                Err(Failure::Broken(why)) => problem = why,
            }
        }
        if endpoints.is_empty() || Instant::now() >= until {
            return Err(problem);
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn attempt(
    (own, cluster): (Identity, ClusterId),
    guard: Guard,
    endpoint: &Endpoint,
    tls: Option<&Tls>,
) -> Result<Copied, Failure> {
    let hello = Hello { role: Role::Peer, cluster: cluster.0, sender: own.member.0, secret: own.incarnation.0 };
    let tls = tls.map(|tls| (tls, Expected::Member(guard.member.0)));
    let dialled = wire::dial_with(tls, endpoint, &hello, CALL_TIMEOUT).await;
    let (connection, _, found) = dialled.map_err(|error| Failure::Broken(error.to_string()))?;
    if found != guard.member.0 {
        return Err(Failure::Broken(format!("member {found} answers at {endpoint}")));
    }
    let new = MemberServiceClient::new(client::Config::default(), wire::transport(connection));
    let source = Source(new.client);
    tokio::select! {
        copied = source.copy(guard.memory) => copied,
        _ = new.dispatch => Err(Failure::Broken("the connection broke".into())),
    }
}

struct Source(MemberServiceClient);

impl Source {
    async fn ask(&self, request: CopyRequest) -> Result<CopyAnswer, Failure> {
        let mut context = context::current();
        context.deadline = Instant::now() + 2 * CALL_TIMEOUT; // ours comes first
        match tokio::time::timeout(CALL_TIMEOUT, self.0.copy(context, request)).await {
            Ok(Ok(CopyAnswer::Refused(why))) => Err(Failure::Refused(why)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failure::Broken(error.to_string())),
            Err(_) => Err(Failure::Broken("a request was not answered in time".into())),
        }
    }

    async fn copy(&self, memory: MemoryId) -> Result<Copied, Failure> {
        let odd = || Failure::Broken("the guard's answer makes no sense".into());
        let begun = self.ask(CopyRequest::Begin(memory)).await?;
        let CopyAnswer::Begun { view, snapshot, entries: count } = begun else { return Err(odd()) };
        let mut image = None;
        if let Some((viewstamp, size_bytes, digest)) = snapshot {
            let mut fetched = SnapshotImage::new(viewstamp);
            while fetched.size_bytes() < size_bytes.min(SNAPSHOT_MAX_BYTES) {
                match self.ask(CopyRequest::Snapshot { offset: fetched.size_bytes() }).await? {
                    CopyAnswer::Snapshot(bytes) if !bytes.is_empty() => drop(fetched.push(bytes)),
                    _ => return Err(odd()),
                }
            }
            if (fetched.size_bytes(), fetched.digest()) != (size_bytes, digest) {
                return Err(odd());
            }
            image = Some(Arc::new(fetched));
        }
        let mut last = image.as_ref().map_or(Viewstamp::default(), |image| image.viewstamp);
        let mut entries = Vec::new();
        while (entries.len() as u64) < count {
            let answer = self.ask(CopyRequest::Entries { first: entries.len() as u64 }).await?;
            let CopyAnswer::Entries(more) = answer else { return Err(odd()) };
            if more.is_empty() {
                return Err(odd());
            }
            for entry in more {
                if !entry.is_sound() || entry.previous != last || entry.viewstamp.view > view.number {
                    return Err(odd());
                }
                last = entry.viewstamp;
                entries.push(Arc::unwrap_or_clone(entry));
            }
        }
        Ok(Copied { view: Some(view), snapshot: image, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, MemberId, Payload};

    fn entry(op: u64, bytes: usize) -> Arc<Entry> {
        let at = |op| Viewstamp { view: 1, op };
        Arc::new(Entry { viewstamp: at(op), previous: at(op - 1), payload: Payload::Batch(vec![vec![0; bytes]]) })
    }

    fn copy(entries: Vec<Arc<Entry>>) -> LogCopy {
        let slot = crate::Slot {
            member: MemberId(1),
            incarnation: crate::Incarnation(1),
            address: String::new(),
            kind: Kind::Replica,
            standing: crate::Standing::InSync,
        };
        let view = View { number: 1, parent: 0, cluster: ClusterId(1), primary: MemberId(1), slots: vec![slot] };
        let state = vec![7; CHUNK_MAX_BYTES + 3];
        let image = SnapshotImage::of(Viewstamp { view: 1, op: 1 }, &state);
        LogCopy { view, snapshot: Some(Arc::new(image)), entries }
    }

    fn count(answer: CopyAnswer) -> usize {
        match answer {
            CopyAnswer::Snapshot(bytes) => bytes.len(),
            CopyAnswer::Entries(entries) => entries.len(),
            other => panic!("no piece: {other:?}"),
        }
    }

    #[test]
    fn pieces_are_bounded_and_end_where_the_copy_ends() {
        let copy = copy(vec![entry(2, 10), entry(3, 2 * MESSAGE_MAX_BYTES), entry(4, 10)]);
        let snapshot = |offset| count(copy.piece(CopyRequest::Snapshot { offset }));
        assert_eq!([0, CHUNK_MAX_BYTES as u64, 1 << 40].map(snapshot), [CHUNK_MAX_BYTES, 3, 0]);
        let entries = |first| count(copy.piece(CopyRequest::Entries { first }));
        assert_eq!([0, 1, 2, 3, u64::MAX].map(entries), [1, 1, 1, 0, 0]);
    }
}
