//! Which server to try next, and after what pause: a core without clock or IO.
//!
//! Every server is tried in turn. A hint is followed at once, but only [`HINTS_MAX`] in a row: two servers that each take the
//! other for the primary must not keep the client from the third. The first round has no pauses; each further one
//! pauses for longer, so that a service that is down is not stormed when it comes back.
//!
//! A host that is dead without a word answers no dial. Whoever has a lease to lose waits for it no longer than a share of
//! that lease, so that the next server is asked in time; each round in vain waits twice as long, so that a network that is merely
//! slow is got through in the end.

use std::time::Duration;

use wire::Endpoint;

use crate::error::Tried;

/// Hints followed in a row before the next server of the list is tried.
const HINTS_MAX: u32 = 3;
/// The pause after the first round in vain; twice as long after each further one.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// The longest pause: a client is back within it once a primary serves.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest wait for a connection and its welcome: a host that is cut off costs this once per round.
pub(crate) const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// The first round waits for this share of the lease at each server.
const DIALS_IN_LEASE: u32 = 5;
/// The most servers whose last answers are kept for an error message.
const TRIED_MAX: usize = 16;

/// The search for the primary.
#[derive(Debug)]
pub struct Route {
    endpoints: Vec<Endpoint>,
    next: usize,
    hint: Option<Endpoint>,
    hints_followed: u32,
    since_success: usize,
    tried: Vec<Tried>,
}

impl Route {
    /// None for an empty list.
    pub fn new(endpoints: Vec<Endpoint>) -> Option<Self> {
        (!endpoints.is_empty()).then_some(Route {
            endpoints,
            next: 0,
            hint: None,
            hints_followed: 0,
            since_success: 0,
            tried: Vec::new(),
        })
    }

    /// The server to try, and for how long to pause before; the caller shortens the pause at random.
    pub fn next_server(&mut self) -> (Endpoint, Duration) {
        if let Some(hint) = self.hint.take()
            && self.hints_followed < HINTS_MAX
        {
            self.hints_followed += 1;
            return (hint, Duration::ZERO);
        }
        self.hints_followed = 0;
        let endpoint = self.endpoints[self.next % self.endpoints.len()].clone();
        let rounds = self.since_success / self.endpoints.len();
        let starts_round = self.since_success.is_multiple_of(self.endpoints.len());
        self.next = (self.next + 1) % self.endpoints.len();
        self.since_success += 1;
        let pause = match (rounds, starts_round) {
            (0, _) | (_, false) => Duration::ZERO,
            (rounds, true) => PAUSE_MIN.saturating_mul(1 << (rounds - 1).min(10)).min(PAUSE_MAX),
        };
        (endpoint, pause)
    }

    /// How long the dial of the server that [`Route::next_server`] named last may take, for a session with this lease.
    pub fn dial_timeout(&self, lease: Duration) -> Duration {
        let rounds = self.since_success.saturating_sub(1) / self.endpoints.len();
        (lease / DIALS_IN_LEASE).saturating_mul(1 << rounds.min(10)).min(DIAL_TIMEOUT_MAX)
    }

    /// A server answered, or could not be asked.
    pub fn on_failure(&mut self, endpoint: &Endpoint, answer: String, hint: Option<&str>) {
        // A hint is a peer's text: one that is no endpoint is no hint.
        self.hint = hint.and_then(|hint| hint.parse().ok()).filter(|hint| hint != endpoint);
        self.tried.retain(|tried| tried.endpoint != *endpoint);
        if self.tried.len() >= TRIED_MAX {
            self.tried.remove(0);
        }
        self.tried.push(Tried { endpoint: endpoint.clone(), answer });
    }

    /// A server serves, but was asked too late: it is the next, too.
    pub fn on_stale(&mut self, endpoint: &Endpoint, answer: String) {
        self.on_failure(endpoint, answer, None);
        self.hint = Some(endpoint.clone());
    }

    /// A primary served us.
    pub fn on_success(&mut self) {
        self.since_success = 0;
        self.hints_followed = 0;
        self.tried.clear();
    }

    /// The last answer of each server since the last success.
    pub fn tried(&self) -> &[Tried] {
        &self.tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(ports: &[u16]) -> Route {
        Route::new(ports.iter().map(|port| Endpoint::Tcp(format!("h:{port}"))).collect()).expect("there are some")
    }

    fn names(route: &mut Route, count: usize) -> Vec<String> {
        (0..count).map(|_| route.next_server().0.to_string()).collect()
    }

    #[test]
    fn servers_are_tried_in_turn_without_pause_and_then_with_growing_ones() {
        let mut route = route(&[1, 2]);
        let pauses: Vec<u128> = (0..8).map(|_| route.next_server().1.as_millis()).collect();
        assert_eq!(pauses, [0, 0, 25, 0, 50, 0, 100, 0]);
        route.on_success();
        assert_eq!(route.next_server().1, Duration::ZERO);
    }

    #[test]
    fn a_dead_host_costs_a_share_of_the_lease_and_more_in_each_round_in_vain() {
        let mut route = route(&[1, 2]);
        let mut timeouts = |lease_ms: u64, count: usize| -> Vec<u128> {
            let lease = Duration::from_millis(lease_ms);
            let next = |_| (route.next_server(), route.dial_timeout(lease)).1.as_millis();
            let timeouts = (0..count).map(next).collect();
            route.on_success();
            timeouts
        };
        assert_eq!(timeouts(1_000, 8), [200, 200, 400, 400, 800, 800, 1_000, 1_000]);
        assert_eq!(timeouts(10_000, 3), [1_000, 1_000, 1_000]);
        assert_eq!(timeouts(500, 1), [100]);
        let all_dead: u128 = timeouts(600, 2).iter().sum();
        assert!(all_dead < 600, "every server is asked before the lease ends");
    }

    #[test]
    fn a_hint_is_followed_at_once_but_two_that_point_at_each_other_do_not_hide_the_third() {
        let mut route = route(&[1, 2, 3]);
        let mut seen = Vec::new();
        for _ in 0..10 {
            let (endpoint, _) = route.next_server();
            let other = if endpoint.to_string() == "h:1" { "h:2" } else { "h:1" };
            seen.push(endpoint.to_string());
            route.on_failure(&endpoint, "not the primary".into(), Some(other));
        }
        assert_eq!(seen[1], "h:2");
        assert!(seen.contains(&"h:3".to_owned()), "{seen:?}");
    }

    #[test]
    fn a_server_that_was_asked_too_late_is_the_next_whatever_others_say() {
        let mut route = route(&[1, 2, 3]);
        let (first, _) = route.next_server();
        route.on_failure(&first, "not the primary".into(), Some("h:9"));
        assert_eq!(names(&mut route, 2), ["h:9", "h:2"]);
        route.on_stale(&"h:2".parse().expect("an address"), "too late".into());
        assert_eq!(names(&mut route, 2), ["h:2", "h:3"]);
    }

    #[test]
    fn a_hint_that_is_no_address_is_ignored_and_the_last_answer_of_each_server_is_kept() {
        let mut route = route(&[1, 2]);
        let (first, _) = route.next_server();
        route.on_failure(&first, "a".into(), Some("nonsense"));
        route.on_failure(&first, "b".into(), None);
        assert_eq!(names(&mut route, 1), ["h:2"]);
        assert_eq!(route.tried().len(), 1);
        assert_eq!(route.tried()[0].answer, "b");
    }
}
