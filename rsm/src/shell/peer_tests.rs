//! Links and incoming connections against each other, and against others that misbehave, over loopback.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use futures::StreamExt;
use parking_lot::Mutex;
use tarpc::context;
use tarpc::server::{BaseChannel, Channel, Config};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use wire::{Connection, Endpoint, Hello, Listener, Role, Welcome};

use super::break_point::BreakPoints;
use super::inbox::{Inbox, Request};
use super::incoming::{Incoming, PeerError};
use super::link::{LinkContext, Links, MemberService, MemberServiceClient};
use super::peers::Peers;
use super::restoration::{CopyAnswer, CopyRequest};
use crate::{ClusterId, Envelope, Identity, Incarnation, MemberId, Message, Viewstamp};

const DEADLINE: Duration = Duration::from_secs(20);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("in time") });
}

fn identity(member: u64) -> Identity {
    Identity { member: MemberId(member), incarnation: Incarnation(u128::from(member) * 11) }
}

fn context_of(member: u64, cluster: u128) -> (Arc<LinkContext>, Receiver<Request>) {
    let (inbox, requests) = Inbox::new();
    let context = LinkContext {
        identity: parking_lot::Mutex::new(identity(member)),
        cluster: Mutex::new(ClusterId(cluster)),
        inbox: Arc::new(inbox),
        break_points: Arc::new(BreakPoints::default()),
        peers: Peers::default(),
        tls: None,
    };
    (Arc::new(context), requests)
}

/// The incoming side of member 2, which knows members 1 and 3.
fn incoming(context: &Arc<LinkContext>) -> Incoming {
    for member in [1, 3] {
        drop(context.peers.add(MemberId(member), "127.0.0.1:1".parse().expect("an address")));
    }
    Incoming::new(Arc::clone(context))
}

async fn listener() -> (Listener, Endpoint) {
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = Listener::bind(&any).await.expect("bound");
    let endpoint = listener.address().expect("an address").to_string().parse().expect("an address");
    (listener, endpoint)
}

/// A link from member 1 to member 2, running, with messages for these views waiting from before it was connected.
fn link_to(endpoint: Endpoint, views: impl Iterator<Item = u64>) -> (Links, Receiver<Request>, JoinHandle<()>) {
    let (context, requests) = context_of(1, 7);
    let (spawn, spawned) = crossbeam_channel::unbounded();
    let mut links = Links::new(context, Box::new(move |link| drop(spawn.send(link))));
    links.add(MemberId(2), endpoint);
    views.for_each(|view| links.send(MemberId(2), Message::StepDown { view }));
    let link = spawned.recv().expect("it is new");
    (links, requests, tokio::spawn(link.run()))
}

async fn accept(listener: &Listener) -> (Connection, Hello) {
    let mut connection = listener.accept().await.expect("a connection");
    let hello = connection.read_hello().await.expect("a hello");
    (connection, hello)
}

async fn welcomed(listener: &Listener) -> Connection {
    let (mut connection, _) = accept(listener).await;
    connection.welcome(&Welcome::Accepted { cluster: 7, member: 2 }).await.expect("written");
    connection
}

async fn next(requests: &Receiver<Request>) -> Request {
    loop {
        match requests.try_recv() {
            Ok(request) => return request,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn next_view(requests: &Receiver<Request>) -> u64 {
    match next(requests).await {
        Request::Message { message: Message::StepDown { view }, from, cluster, .. } => {
            assert_eq!((from, cluster), (identity(1), ClusterId(7)));
            view
        }
        _ => panic!("not the message"),
    }
}

async fn unreachable(requests: &Receiver<Request>) -> u64 {
    match next(requests).await {
        Request::Unreachable(member, _) => member.0,
        _ => panic!("not the report"),
    }
}

/// Counts messages, call by call.
#[derive(Clone, Default)]
struct Counter(Arc<Mutex<Vec<usize>>>);

impl MemberService for Counter {
    async fn deliver(self, _: context::Context, envelopes: Vec<Envelope>) {
        self.0.lock().push(envelopes.len());
    }

    async fn copy(self, _: context::Context, _: CopyRequest) -> CopyAnswer {
        CopyAnswer::Later
    }
}

async fn serve(connection: Connection, counter: Counter) {
    let channel = BaseChannel::new(Config::default(), wire::transport(connection));
    channel.execute(counter.serve()).for_each(|call| call).await;
}

#[test]
fn messages_arrive_in_order_under_their_senders_name() {
    run(async {
        let (listener, endpoint) = listener().await;
        let (links, _own, _link) = link_to(endpoint, 1..=200);
        let (connection, hello) = accept(&listener).await;
        assert_eq!((hello.role, hello.sender, hello.secret, hello.cluster), (Role::Peer, 1, 11, 7));
        let (context, requests) = context_of(2, 7);
        let incoming = incoming(&context);
        tokio::spawn(async move { incoming.serve(connection, &hello).await });
        for view in 1..=200 {
            assert_eq!(next_view(&requests).await, view);
        }
        links.send(MemberId(2), Message::StepDown { view: 201 });
        assert_eq!(next_view(&requests).await, 201);
    });
}

#[test]
fn what_waits_for_a_link_goes_as_one_call() {
    run(async {
        let (listener, endpoint) = listener().await;
        let (_links, _own, _link) = link_to(endpoint, 1..=100);
        let connection = welcomed(&listener).await;
        let counter = Counter::default();
        tokio::spawn(serve(connection, counter.clone()));
        while counter.0.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*counter.0.lock(), [100]);
    });
}

#[test]
fn a_call_stays_below_half_a_frame_and_the_rest_follows() {
    run(async {
        let (listener, endpoint) = listener().await;
        let (links, _own, _link) = link_to(endpoint, 0..0);
        let chunk =
            |_| Message::Chunk { view: 1, viewstamp: Viewstamp::default(), offset: 0, bytes: vec![0; 80 << 10] };
        (0..10).map(chunk).for_each(|message| links.send(MemberId(2), message));
        let counter = Counter::default();
        tokio::spawn(serve(welcomed(&listener).await, counter.clone()));
        while counter.0.lock().iter().sum::<usize>() < 10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*counter.0.lock(), [3, 3, 3, 1]);
    });
}

#[test]
fn a_broken_connection_is_reported_and_dialled_again() {
    run(async {
        let (listener, endpoint) = listener().await;
        let (links, own, _link) = link_to(endpoint, 0..0);
        drop(welcomed(&listener).await);
        assert_eq!(unreachable(&own).await, 2);
        let counter = Counter::default();
        tokio::spawn(serve(welcomed(&listener).await, counter.clone()));
        while counter.0.lock().is_empty() {
            links.send(MemberId(2), Message::StepDown { view: 1 });
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_member_that_nobody_listens_for_is_reported_again_and_again_but_not_often() {
    run(async {
        let (listener, endpoint) = listener().await;
        drop(listener);
        let (_links, own, _link) = link_to(endpoint, 0..0);
        let start = tokio::time::Instant::now();
        for _ in 0..3 {
            assert_eq!(unreachable(&own).await, 2);
        }
        assert!(start.elapsed() >= Duration::from_millis(200), "at most every 100 ms");
    });
}

#[test]
fn another_member_at_the_address_gets_no_messages() {
    run(async {
        let (listener, endpoint) = listener().await;
        let (_links, own, _link) = link_to(endpoint, 1..=3);
        let (mut connection, _) = accept(&listener).await;
        connection.welcome(&Welcome::Accepted { cluster: 7, member: 3 }).await.expect("written");
        let counter = Counter::default();
        serve(connection, counter.clone()).await;
        assert_eq!(*counter.0.lock(), [0; 0]);
        assert!(own.is_empty(), "mixed-up addresses do not say that a process is gone");
    });
}

#[test]
fn a_link_that_is_let_go_ends() {
    run(async {
        let (listener, endpoint) = listener().await;
        let (links, _own, link) = link_to(endpoint, 0..0);
        let _connection = welcomed(&listener).await;
        drop(links);
        link.await.expect("no panic");
    });
}

/// A connection to member 2 as member 1, and what its serving came to.
async fn connected() -> (Connection, Receiver<Request>, Arc<Incoming>, JoinHandle<Result<(), PeerError>>) {
    let (listener, endpoint) = listener().await;
    let (context, requests) = context_of(2, 7);
    let incoming = Arc::new(incoming(&context));
    let (connection, served) = connect(&listener, &endpoint, &incoming).await;
    (connection, requests, incoming, served)
}

async fn connect(
    listener: &Listener,
    endpoint: &Endpoint,
    incoming: &Arc<Incoming>,
) -> (Connection, JoinHandle<Result<(), PeerError>>) {
    let hello = Hello { role: Role::Peer, cluster: 7, sender: 1, secret: 11 };
    let dial = wire::dial(endpoint, &hello, DEADLINE);
    let serving = async {
        let (connection, hello) = accept(listener).await;
        let incoming = Arc::clone(incoming);
        (tokio::spawn(async move { incoming.serve(connection, &hello).await }),)
    };
    let (dialled, (served,)) = tokio::join!(dial, serving);
    let (connection, cluster, member) = dialled.expect("welcomed");
    assert_eq!((cluster, member), (7, 2));
    (connection, served)
}

fn assert_garbage(result: Result<(), PeerError>, what: &str) {
    let line = result.expect_err("closed").to_string();
    assert!(line.starts_with("member 1 sent garbage: ") && line.contains(what) && !line.contains('\n'), "{line}");
}

#[test]
fn garbage_closes_the_connection_and_is_counted() {
    run(async {
        for frame in [&[0, 0, 0, 2, 255, 255][..], &[255, 255, 255, 255, 0]] {
            let (mut connection, requests, incoming, served) = connected().await;
            connection.write_all(frame).await.expect("written");
            assert_garbage(served.await.expect("no panic"), "could not read");
            assert_eq!((incoming.broken(), incoming.is_connected(identity(1))), (1, false));
            assert!(requests.is_empty(), "garbage does not say that a process is gone");
        }
    });
}

#[test]
fn a_connection_that_ends_within_a_message_is_broken_and_not_garbage() {
    run(async {
        let (mut connection, requests, incoming, served) = connected().await;
        connection.write_all(&[0, 0, 0, 9, 1, 2]).await.expect("written");
        drop(connection);
        served.await.expect("no panic").expect("a plain end");
        assert_eq!((unreachable(&requests).await, incoming.broken()), (1, 0));
        assert!(!incoming.is_connected(identity(1)), "or a stop would count on a process that is gone");
    });
}

#[test]
fn a_message_in_another_members_name_closes_the_connection() {
    run(async {
        for (from, incarnation) in [(MemberId(3), Incarnation(11)), (MemberId(1), Incarnation(12))] {
            let (connection, requests, incoming, served) = connected().await;
            let service = MemberServiceClient::new(Default::default(), wire::transport(connection)).spawn();
            let message = Message::StepDown { view: 1 };
            let envelope = Envelope { cluster: ClusterId(7), from, incarnation, message };
            assert!(service.deliver(context::current(), vec![envelope]).await.is_err());
            assert_garbage(served.await.expect("no panic"), "another member's name");
            assert_eq!(incoming.broken(), 1);
            assert!(requests.is_empty());
        }
    });
}

#[test]
fn a_connection_that_ends_tells_that_the_member_is_gone_unless_it_has_a_newer_one() {
    run(async {
        let (listener, endpoint) = listener().await;
        let (context, requests) = context_of(2, 7);
        let incoming = Arc::new(incoming(&context));
        let (older, older_served) = connect(&listener, &endpoint, &incoming).await;
        let (newer, newer_served) = connect(&listener, &endpoint, &incoming).await;
        drop(older);
        older_served.await.expect("no panic").expect("a plain end");
        assert!(requests.is_empty());
        drop(newer);
        newer_served.await.expect("no panic").expect("a plain end");
        assert_eq!(unreachable(&requests).await, 1);
    });
}

#[test]
fn a_stranger_is_refused_in_words() {
    let good = Hello { role: Role::Peer, cluster: 7, sender: 1, secret: 11 };
    let bad = [
        (Hello { role: Role::Client, ..good }, "members here, not clients"),
        (Hello { sender: 2, ..good }, "two members have the same id"),
        (Hello { sender: 4, ..good }, "knows no member 4"),
        (Hello { cluster: 8, ..good }, "belongs to cluster 00000000000000000000000000000007"),
    ];
    run(async move {
        for (hello, words) in bad {
            let (listener, endpoint) = listener().await;
            let (context, _requests) = context_of(2, 7);
            let incoming = incoming(&context);
            let serving = async {
                let (connection, hello) = accept(&listener).await;
                incoming.serve(connection, &hello).await
            };
            let (dialled, served) = tokio::join!(wire::dial(&endpoint, &hello, DEADLINE), serving);
            assert!(matches!(served, Err(PeerError::Refused(reason)) if reason.contains(words)));
            assert!(dialled.expect_err("refused").to_string().contains(words));
        }
    });
}
