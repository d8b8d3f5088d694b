//! The network between members and clients: a switch in this process, on which every link in each direction is as we say.
//!
//! Why not the kernel's own: its ways to lose and delay packets are modules that many machines do not have, and changing a link
//! takes a process. Here a node's only interface is a TUN device whose other end this process holds, so what the switch does not
//! pass on has not happened, in one direction, between two nodes, from one packet to the next. What is lost, comes twice or is
//! overtaken TCP sends again and puts right, as on any network; nobody gets an error, and what servers see of it is when bytes
//! arrive, and when connections end.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_tun::Tun;

use super::space::house;
use crate::lab::{Checked, Failure};
use crate::simulator::dice::{Dice, MILLION};

/// The driver's own node: it asks members how they are, whatever their links are like.
pub(crate) const HUB: u8 = 254;
/// Packets under way on a link; what is more is dropped, as by a router.
const QUEUE_MAX: u32 = 500;
/// For how long a packet is held back, or its twin, ms.
const HELD_BACK_MS: (u64, u64) = (1, 30);
const NODES: usize = 256;
/// More than any packet of an interface with the usual 1500 bytes.
const PACKET_BYTES: usize = 2048;

/// A link in one direction; at first nothing is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Nothing passes.
    pub(crate) cut: bool,
    /// So many packets in a million are lost.
    pub(crate) loss: u64,
    /// So many arrive twice.
    pub(crate) twice: u64,
    /// So many are held back, and overtaken by those behind them.
    pub(crate) overtaken: u64,
    /// Each packet is under way for a time from here ...
    pub(crate) delay_ms: (u64, u64),
    /// ... and waits for those before it: bytes per second; 0: as many as come.
    pub(crate) rate: u64,
}

/// Packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// Passed on.
    pub(crate) passed: u64,
    pub(crate) dropped: u64,
    /// Sent a second time.
    pub(crate) twins: u64,
    /// Held back.
    pub(crate) overtaken: u64,
}

/// What is wrong, by sender and receiver.
pub(crate) type Shape = BTreeMap<(u8, u8), Link>;

#[derive(Clone, Copy, Debug)]
struct Wire {
    link: Link,
    under_way: u32,
    free_at: Instant,
}

/// The switch.
#[derive(Clone, Debug)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    wires: Mutex<Vec<Wire>>,
    passed: AtomicU64,
    dropped: AtomicU64,
    twins: AtomicU64,
    overtaken: AtomicU64,
}

/// A node's address.
pub(crate) fn address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, node)
}

/// A node's network namespace.
pub(crate) fn namespace(node: u8) -> String {
    format!("node-{node}")
}

impl Network {
    /// Makes the nodes, each in a namespace of its own (but for the hub's, which stays here), and switches from then on.
    pub(crate) fn start(nodes: &[u8], seed: u64) -> Checked<Network> {
        let wire = Wire { link: Link::default(), under_way: 0, free_at: Instant::now() };
        let inner = Inner {
            wires: Mutex::new(vec![wire; NODES * NODES]),
            passed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            twins: AtomicU64::new(0),
            overtaken: AtomicU64::new(0),
        };
        let network = Network(Arc::new(inner));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (switch, nodes) = (network.clone(), nodes.to_vec());
        std::thread::Builder::new().name("switch".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async move {
                let ports = plug(&nodes);
                let failed = ports.is_err();
                let (ports, told) = ports.map_or_else(|failure| (Vec::new(), Err(failure)), |ports| (ports, Ok(())));
                drop(ready.send(told));
                if !failed {
                    switch.run(ports, seed).await;
                }
            });
        })?;
        let told = is_ready.recv().map_err(|_| Failure::Wrong("the switch has no runtime".into()))?;
        told.map(|()| network)
    }

    /// Makes links what the shape says, and all others well.
    pub(crate) fn shape(&self, shape: &Shape) {
        let mut wires = self.wires();
        wires.iter_mut().for_each(|wire| wire.link = Link::default());
        for ((from, to), link) in shape {
            wires[at(*from, *to)].link = *link;
        }
    }

    /// Nothing is wrong with any link.
    pub(crate) fn heal(&self) {
        self.shape(&Shape::new());
    }

    /// So far.
    pub(crate) fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            passed: read(&self.0.passed),
            dropped: read(&self.0.dropped),
            twins: read(&self.0.twins),
            overtaken: read(&self.0.overtaken),
        }
    }

    fn wires(&self) -> MutexGuard<'_, Vec<Wire>> {
        self.0.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, ports: Vec<(u8, Tun)>, seed: u64) {
        let mut by_node: Vec<Option<Arc<Tun>>> = vec![None; NODES];
        for (node, tun) in ports {
            by_node[usize::from(node)] = Some(Arc::new(tun));
        }
        let by_node = Arc::new(by_node);
        let readers = by_node.iter().zip(0..=u8::MAX).filter_map(|(tun, node)| Some((Arc::clone(tun.as_ref()?), node)));
        let tasks: Vec<_> = readers
            .map(|(tun, from)| {
                let (network, ports) = (self.clone(), Arc::clone(&by_node));
                tokio::spawn(async move { network.read(from, &tun, &ports, Dice::new(seed ^ u64::from(from))).await })
            })
            .collect();
        futures::future::join_all(tasks).await;
    }

    async fn read(&self, from: u8, tun: &Tun, ports: &[Option<Arc<Tun>>], mut dice: Dice) {
        let mut packet = [0; PACKET_BYTES];
        // An interface that is gone or down has nothing more to say.
        while let Ok(len) = tun.recv(&mut packet).await {
            let packet = &packet[..len];
            let Some(to) = destination(packet) else { continue };
            let Some(port) = ports[usize::from(to)].clone() else { continue };
            let (first, twin) = self.due(from, to, len, &mut dice);
            if first.is_none() {
                self.0.dropped.fetch_add(1, Ordering::Relaxed);
            }
            for due in [first, twin].into_iter().flatten() {
                if due <= Instant::now() {
                    self.pass(from, to, &port, packet);
                    continue;
                }
                let (network, port, packet) = (self.clone(), Arc::clone(&port), packet.to_vec());
                tokio::spawn(async move {
                    sleep_until(due).await;
                    network.pass(from, to, &port, &packet);
                });
            }
        }
    }

    /// When a packet is through, or none where it is lost; and when its twin is, where it arrives twice.
    fn due(&self, from: u8, to: u8, len: usize, dice: &mut Dice) -> (Option<Instant>, Option<Instant>) {
        let (now, mut wires) = (Instant::now(), self.wires());
        let wire = &mut wires[at(from, to)];
        let link = wire.link;
        if link.cut || dice.chance(link.loss.min(MILLION)) || wire.under_way >= QUEUE_MAX {
            return (None, None);
        }
        let sending = (len as u64 * 1_000_000).checked_div(link.rate).map_or(Duration::ZERO, Duration::from_micros);
        wire.free_at = wire.free_at.max(now) + sending;
        let mut due = wire.free_at + Duration::from_millis(dice.between(link.delay_ms));
        let mut held_back = |share| dice.chance(share).then(|| Duration::from_millis(dice.between(HELD_BACK_MS)));
        let (overtaken, twin) = (held_back(link.overtaken), held_back(link.twice));
        due += overtaken.unwrap_or_default();
        wire.under_way += 1 + u32::from(twin.is_some());
        self.0.overtaken.fetch_add(u64::from(overtaken.is_some()), Ordering::Relaxed);
        self.0.twins.fetch_add(u64::from(twin.is_some()), Ordering::Relaxed);
        (Some(due), twin.map(|later| due + later))
    }

    fn pass(&self, from: u8, to: u8, port: &Tun, packet: &[u8]) {
        let mut wires = self.wires();
        let wire = &mut wires[at(from, to)];
        wire.under_way -= 1;
        // What was under way when the link was cut does not arrive; a full interface drops, as any does.
        let passed = !wire.link.cut && port.try_send(packet).is_ok();
        let counter = if passed { &self.0.passed } else { &self.0.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn at(from: u8, to: u8) -> usize {
    usize::from(from) * NODES + usize::from(to)
}

/// The node that an IPv4 packet is for; other packets (neighbours' discovery of IPv6) are nobody's.
fn destination(packet: &[u8]) -> Option<u8> {
    let (first, address) = (packet.first()?, packet.get(16..20)?);
    (first >> 4 == 4 && address[..3] == [10, 77, 0]).then_some(address[3])
}

fn plug(nodes: &[u8]) -> Checked<Vec<(u8, Tun)>> {
    let refused = |error: tokio_tun::Error| Failure::Wrong(format!("a TUN device: {error}"));
    let mut ports = Vec::new();
    for node in nodes {
        let name = format!("tun-{node}");
        let builder = Tun::builder().name(&name);
        let tun = if *node == HUB {
            builder.address(address(HUB)).netmask(Ipv4Addr::new(255, 255, 255, 0)).up().build()
        } else {
            builder.build()
        };
        let tun = tun.map_err(refused)?.pop().ok_or_else(|| Failure::Wrong("no TUN device was made".into()))?;
        if *node != HUB {
            house(&namespace(*node), &name, &format!("{}/24", address(*node)))?;
        }
        ports.push((*node, tun));
    }
    Ok(ports)
}
