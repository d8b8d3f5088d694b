//! Loopback addresses that no other cluster uses.
//!
//! Why it is right: all of 127.0.0.0/8 is loopback. Each cluster takes an address of its own, made of the process's id and a
//! counter, and fixed ports on it below the range from which the system takes ports for outgoing connections. So a port
//! that is free because its member is dead cannot be taken by anybody before the member is back; a free port of 127.0.0.1 can,
//! even by a member's own attempt to reach the dead one.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Clusters of one process at a time; process ids above 65,000 start over.
const CLUSTERS_PER_PROCESS: u32 = 250;
const PROCESSES: u32 = 65_000;
/// Above 127.0.0.x and 127.0.1.x, which systems use themselves.
const FIRST: u32 = 0x7f00_0200;
/// Addresses that are tried.
const ATTEMPTS: u32 = 20;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// An address on which these ports are free.
pub(crate) fn own_address(ports: &[u16]) -> io::Result<Ipv4Addr> {
    let mut last = io::Error::other("no address was tried");
    for _ in 0..ATTEMPTS {
        let counter = COUNTER.fetch_add(1, Ordering::Relaxed) % CLUSTERS_PER_PROCESS;
        let offset = (std::process::id() % PROCESSES) * CLUSTERS_PER_PROCESS + counter;
        let address = Ipv4Addr::from_bits(FIRST + offset);
        let bound: io::Result<Vec<TcpListener>> =
            ports.iter().map(|port| TcpListener::bind((address, *port))).collect();
        match bound {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_have_different_addresses_and_both_are_loopback() {
        let (one, other) = (own_address(&[7101]).expect("free"), own_address(&[7101]).expect("free"));
        assert!(one != other && one.is_loopback() && other.is_loopback());
    }
}
