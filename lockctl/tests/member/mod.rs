//! Members that tell of themselves, and serve nothing else.

use futures::StreamExt;
use lock_protocol::{
    Activity, Answer, BackupAnswer, BackupHeader, BackupRequest, FencingToken, ForceRelease, ForcedTenure, KeepAlive,
    LockName, LockService, MemberChange, MemberStatus, Open, OpenWith, Opened, Outcome, Query, RecoveryAnswer,
    RecoveryReport, Refusal, Renewed, Role, SessionEnd, SessionId, Submission, ViewMember, ViewSummary,
};
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use wire::{Endpoint, Listener, Welcome};

/// What all members hold.
pub(crate) const STATE: &[u8] = b"the state of all";
/// CRC32C of it.
const STATE_CRC32C: u32 = 0x7be0_2b35;

/// What a backup says of it.
pub(crate) fn backup_header() -> BackupHeader {
    let (name, state_bytes) = ("test".to_owned(), STATE.len() as u64);
    BackupHeader { cluster: 7, name, member: 1, view: 4, op: 9, taken_us: 1, state_bytes, state_crc32c: STATE_CRC32C }
}

/// Members of a cluster of three; the first of them is the primary of view 4.
pub(crate) struct Members {
    pub(crate) addresses: Vec<String>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// Starts those with these ids. The others are in the view, and nobody is there.
pub(crate) fn start(ids: &[u64]) -> Members {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let any: Endpoint = "127.0.0.1:0".parse().expect("as it is written");
    let listeners: Vec<Listener> =
        ids.iter().map(|_| runtime.block_on(Listener::bind(&any)).expect("a free port")).collect();
    let mut addresses: Vec<String> = listeners.iter().map(|it| it.address().expect("it has one").to_string()).collect();
    addresses.resize(3, "127.0.0.1:1".to_owned());
    for (id, listener) in ids.iter().zip(listeners) {
        runtime.spawn(serve(listener, Member { id: *id, addresses: addresses.clone() }));
    }
    let (stop, stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(runtime.block_on(stopped)));
    Members { addresses, _stop: stop }
}

async fn serve(listener: Listener, member: Member) {
    loop {
        let mut connection = listener.accept().await.expect("a connection");
        let member = member.clone();
        tokio::spawn(async move {
            connection.read_hello().await.expect("a hello");
            connection
                .welcome(&Welcome::Accepted { cluster: 7, member: member.id })
                .await
                .expect("the caller is there");
            let channel = BaseChannel::with_defaults(wire::transport(connection));
            channel.execute(member.serve()).for_each(|handler| handler).await;
        });
    }
}

#[derive(Clone)]
struct Member {
    id: u64,
    addresses: Vec<String>,
}

impl LockService for Member {
    async fn open(self, _: Context, _: Open) -> Result<Opened, Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn open_with(self, _: Context, _: OpenWith) -> Result<Opened, Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn end(self, _: Context, _: SessionId, _: SessionEnd) -> Result<(), Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn report_recovery(self, _: Context, _: RecoveryReport) -> Result<RecoveryAnswer, Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn force_kept(self, _: Context, _: LockName, _: FencingToken) -> Result<Vec<ForcedTenure>, Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn submit(self, _: Context, _: Submission) -> Result<Vec<Outcome>, Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn keep_alive(self, _: Context, _: KeepAlive) -> Result<Renewed, Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn close(self, _: Context, _: SessionId) -> Result<(), Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn query(self, _: Context, _: Query) -> Result<Answer, Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn force_release(self, _: Context, _: ForceRelease) -> Result<Vec<ForcedTenure>, Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn change_members(self, _: Context, _: MemberChange) -> Result<u64, Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn backup(self, _: Context, request: BackupRequest) -> Result<BackupAnswer, Refusal> {
        match request {
            BackupRequest::Begin if self.id == 2 => Err(Refusal::Busy("another backup is being fetched".to_owned())),
            BackupRequest::Begin => Ok(BackupAnswer::Begun(backup_header())),
            BackupRequest::Part { offset, .. } => {
                let rest = &STATE[usize::try_from(offset).expect("it is short")..];
                Ok(BackupAnswer::Part(rest[..rest.len().min(3)].to_vec()))
            }
        }
    }

    async fn activity(self, _: Context) -> Option<Activity> {
        Some(Activity { sessions: 3, locks: 12, waiters: 1, grants: 40, expired: 0 })
    }

    async fn status(self, _: Context) -> MemberStatus {
        let listed = |(place, address): (usize, &String)| {
            let id = place as u64 + 1;
            let role = if id == 3 { Role::Syncing } else { Role::Backup };
            ViewMember { id, address: address.clone(), role }
        };
        let members = self.addresses.iter().enumerate().map(listed).collect();
        MemberStatus {
            id: self.id,
            cluster: 7,
            role: if self.id == 1 { Role::Primary } else { Role::Backup },
            serving: true,
            waits_for: None,
            view: Some(ViewSummary { id: 4, primary: 1, in_sync: vec![1, 2], members }),
            applied_op: 9,
            commit_op: 9,
            last_op: 9,
            state_hash: "00000000000000aa".to_owned(),
            durability: "nvm: file, durable".to_owned(),
            pid: std::process::id(),
        }
    }
}
