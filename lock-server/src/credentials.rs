//! Certificates and rules of access that change while the member runs.
//!
//! Why it is right: what is read counts only when it is whole and right (see [`wire::Tls`] and [`Access`]), so looking too early does no harm, and
//! looking again comes soon.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use wire::Tls;

use crate::access::Access;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// Looks at the files again and again, and at once on SIGHUP, which without files does nothing. The signal is caught from the call on.
pub(crate) fn watch_files(tls: Option<Tls>, access: Option<Access>) -> impl Future<Output = ()> + Send {
    let hang_up = signal(SignalKind::hangup());
    let mut hang_up = hang_up.inspect_err(|error| tracing::warn!(%error, "SIGHUP will not be noticed")).ok();
    async move {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let told = async {
                match &mut hang_up {
                    Some(hang_up) => drop(hang_up.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = looks.tick() => {
                    tls.iter().for_each(Tls::refresh);
                    access.iter().for_each(Access::refresh);
                }
                () = told => {
                    tls.iter().for_each(Tls::read_again);
                    access.iter().for_each(Access::read_again);
                }
            }
        }
    }
}
