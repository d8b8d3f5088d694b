//! A member as a whole: the socket, the replica, and the threads and tasks around it, from start to end.
//!
//! Why it is right: the address is bound before the store is touched, and nobody is answered before the store is open. At the end
//! the replica hands over and closes its store first, while requests under way are still answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use parking_lot::Mutex;
use rsm::{Handle, Node, NodeSettings, StartError};
use rustix::process::{Resource, getrlimit};
use tokio::runtime;
use tokio::sync::{Semaphore, watch};
use wire::{Endpoint, Listener};

use crate::access::Access;
use crate::application::{LockApplication, Outlet, Outlets, Pulse, outlet};
use crate::backup::Backups;
use crate::callbacks::Callbacks;
use crate::credentials::watch_files;
use crate::edge::{Edge, QUERIES_MAX, accept_all, clients_max};
use crate::metrics::{Counters, Probe, answer_all};
use crate::primary::{RetryerEvent, RevokerEvent};
use crate::retryer::RetryerThread;
use crate::revoker::RevokerThread;
use crate::tick::{KeepAlives, TickerTask, sweep};

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The replica.
    pub node: NodeSettings,
    /// Where to listen.
    pub listen: Endpoint,
    /// Says yes to an address that other hosts reach, though without TLS nothing is encrypted and nobody is asked who he is.
    pub listen_anywhere: bool,
    /// Where to answer `GET /metrics`, `/healthz` and `/readyz`, if anywhere. Nobody is asked there who he is.
    pub metrics_listen: Option<Endpoint>,
    /// What clients may do; without it, all may do all.
    pub(crate) access: Option<Access>,
}

/// Why a member does not start; one line that says what to do. Nothing was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {endpoint}: {}", listen_advice(error))]
    Listen {
        /// The address.
        endpoint: Endpoint,
        /// What the system said.
        error: io::Error,
    },
    /// The address is reached by other hosts.
    #[error(
        "{address} can be reached by other hosts, and nothing is encrypted: name certificates (--tls-cert), listen on loopback, \
         or say --insecure-listen-anywhere"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The replica does not start.
    #[error("{0}")]
    Start(#[from] StartError),
    /// The system gives no thread.
    #[error("no thread can be started: {0}")]
    Thread(io::Error),
}

/// A running member. To be used within the runtime that it was started in; dropping it ends the member like a crash.
#[derive(Debug)]
pub struct Server {
    handle: Handle,
    node: Node,
    address: Option<SocketAddr>,
    tasks: tokio::task::JoinSet<()>,
    revoker: Outlet<RevokerEvent>,
    retryer: Outlet<RetryerEvent>,
}

impl Server {
    /// Binds, opens the store, and starts everything, in the current runtime.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn start(settings: ServerSettings) -> Result<Server, ServeError> {
        let ServerSettings { node: node_settings, listen, listen_anywhere, metrics_listen, access } = settings;
        let tls = node_settings.tls.clone();
        let listener = bind(&listen, listen_anywhere || tls.is_some()).await?;
        let metrics_listener = match &metrics_listen {
            Some(endpoint) => Some(bind(endpoint, true).await?),
            None => None,
        };
        let address = listener.address();
        let cluster = node_settings.cluster.clone();
        let mode = node_settings.durability.to_string();
        let runtime = runtime::Handle::current();
        let (pulse_sender, pulse) = watch::channel(Pulse::default());
        let (revoker, revoker_inlet) = outlet();
        let (retryer, retryer_inlet) = outlet();
        let counters = Arc::new(Counters::default());
        let outlets = Outlets {
            pulse: pulse_sender,
            revoker: revoker.clone(),
            retryer: retryer.clone(),
            counters: Arc::clone(&counters),
        };
        let (node, handle) = Node::start(node_settings, LockApplication::new(outlets), runtime.clone())?;
        let callbacks = Arc::new(Callbacks::new(runtime.clone(), Arc::clone(&counters)));
        let keep_alives = Arc::new(KeepAlives::default());

        let revoker_thread = RevokerThread {
            handle: handle.clone(),
            runtime,
            callbacks: Arc::clone(&callbacks),
            inlet: revoker_inlet,
            outlet: revoker.clone(),
        };
        spawn("revoker", move || revoker_thread.run())?;
        let retryer_thread =
            RetryerThread { callbacks: Arc::clone(&callbacks), inlet: retryer_inlet, outlet: retryer.clone() };
        spawn("retryer", move || retryer_thread.run())?;

        let edge = Edge {
            handle: handle.clone(),
            callbacks,
            backups: Arc::new(Backups::new(handle.clone(), cluster.clone())),
            keep_alives: Arc::clone(&keep_alives),
            counters: Arc::clone(&counters),
            queries: Semaphore::new(QUERIES_MAX),
            pulse: pulse.clone(),
            revoker: revoker.clone(),
            retryer: retryer.clone(),
            mode: mode.clone(),
            open: AtomicUsize::new(0),
            tls: tls.clone(),
            access: access.clone(),
            last_refusal: Mutex::new(None),
            clients_max: clients_max(getrlimit(Resource::Nofile).current),
        };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(watch_files(tls, access));
        if let Some(listener) = metrics_listener {
            let probe =
                Probe { handle: handle.clone(), counters, cluster, mode: mode.clone(), started: SystemTime::now() };
            tasks.spawn(answer_all(listener, Arc::new(probe)));
        }
        tasks.spawn(TickerTask { handle: handle.clone(), pulse: pulse.clone(), keep_alives }.run());
        tasks.spawn(sweep(handle.clone(), pulse));
        tasks.spawn(accept_all(listener, Arc::new(edge)));
        let (durability, writer) = (handle.durability(), if handle.is_inline() { "inline" } else { "thread" });
        tracing::info!(member = handle.member().0, %listen, mode, durability, writer, "listening");
        Ok(Server { handle, node, address, tasks, revoker, retryer })
    }

    /// The address that was bound; none for a local socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The replica.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until the member has ended by itself.
    ///
    /// # Errors
    /// It could not go on; one line says why.
    pub async fn wait(&self) -> Result<(), String> {
        self.node.wait().await
    }

    /// Stops in good order: hands over if this is the primary, then closes the store.
    pub async fn stop(mut self) {
        self.handle.stop().await;
        self.tasks.shutdown().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not waited for: the revoker may be asking the replica thread, which ends only with the node, a field of this.
        self.revoker.end();
        self.retryer.end();
    }
}

async fn bind(endpoint: &Endpoint, anywhere: bool) -> Result<Listener, ServeError> {
    let listener = Listener::bind(endpoint).await;
    let listener = listener.map_err(|error| ServeError::Listen { endpoint: endpoint.clone(), error })?;
    match listener.address() {
        Some(address) if !address.ip().is_loopback() && !anywhere => Err(ServeError::NotLoopback { address }),
        _ => Ok(listener),
    }
}

fn listen_advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use: stop the process that has it, or choose another".into(),
        io::ErrorKind::AddrNotAvailable => "the address is none of this host's: choose another".into(),
        io::ErrorKind::PermissionDenied => "it is not permitted: choose a port above 1023, or another path".into(),
        _ => format!("{error}: choose another address"),
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), ServeError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map(drop).map_err(ServeError::Thread)
}
