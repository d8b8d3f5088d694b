//! A client process: a real session, whose users fight for a few locks and guard things with them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::rc::Rc;
use std::time::Duration;

use lock_client::{AcquireError, LockClient, LockGuard, Mode};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::diary::{Ask, Said, Told, Wish};
use crate::lab::monotonic;
use crate::simulator::dice::{Dice, MILLION};

/// Users of one session at a time.
const USERS: u64 = 3;
/// One look for a primary; then the next begins.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// While a lock is held its validity is told so often.
const TELL_EVERY: Duration = Duration::from_millis(40);

/// How a client is to be.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Of the servers.
    pub endpoints: Vec<String>,
    /// Its name.
    pub name: String,
    /// Of its chances.
    pub seed: u64,
    /// Its wish.
    pub lease: Duration,
    /// How many locks there are.
    pub locks: u64,
}

struct Client {
    settings: ClientSettings,
    finishing: Cell<bool>,
    ops: Cell<u64>,
    asked: RefCell<BTreeMap<u64, oneshot::Sender<Option<u64>>>>,
}

/// Runs until it is told to finish, or its standard input ends.
pub fn run_client(settings: ClientSettings) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Rc::new(Client {
        settings,
        finishing: Cell::new(false),
        ops: Cell::new(0),
        asked: RefCell::new(BTreeMap::new()),
    });
    let (lines, mut told) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("told".into()).spawn(move || {
        let read = std::io::stdin().lock().lines().map_while(Result::ok);
        for told in read.filter_map(|line| serde_json::from_str::<Told>(&line).ok()) {
            if lines.send(told).is_err() {
                return;
            }
        }
        // The driver is gone; nobody is interested in the rest.
        std::process::exit(1);
    })?;
    let listener = Rc::clone(&client);
    LocalSet::new().block_on(&runtime, async move {
        tokio::task::spawn_local(async move {
            while let Some(told) = told.recv().await {
                listener.on_told(told);
            }
        });
        client.live().await;
    });
    Ok(())
}

impl Client {
    fn on_told(&self, told: Told) {
        match told {
            Told::Finish => self.finishing.set(true),
            Told::Store { op, value } => {
                let asked = self.asked.borrow_mut().remove(&op);
                // The user may have been dropped.
                asked.and_then(|asked| asked.send(value).ok());
            }
        }
    }

    /// One session after the other.
    async fn live(self: Rc<Self>) {
        let mut dice = Dice::new(self.settings.seed);
        while !self.finishing.get() {
            let builder = LockClient::builder(&self.settings.endpoints).name(&self.settings.name);
            let builder = builder.lease(self.settings.lease).connect_timeout(CONNECT_TIMEOUT);
            // While no primary answers there is nothing else to do than to ask again.
            let Ok(locks) = builder.connect().await else { continue };
            say(&Said::Opened { session: locks.session().0 });
            let users = (0..USERS).map(|_| {
                let (client, locks, dice) = (Rc::clone(&self), locks.clone(), Dice::new(dice.number()));
                tokio::task::spawn_local(async move { client.user(&locks, dice).await })
            });
            for ended in futures::future::join_all(users).await {
                if ended.is_err() {
                    say(&Said::Trouble("a user panicked".into()));
                }
            }
            // What it says matters only for how soon others get the locks.
            drop(locks.close().await);
        }
        say(&Said::Ended);
    }

    /// Takes locks until the session is lost.
    async fn user(&self, locks: &LockClient, mut dice: Dice) {
        while !self.finishing.get() {
            let lock = dice.below(self.settings.locks);
            let patience_ms = match dice.below(10) {
                0 => Some(lock_client::TRY_WAIT.as_millis() as u64),
                1..=2 => Some(dice.spread((20, 3000))),
                _ => None,
            };
            let wish = Wish { exclusive: dice.chance(MILLION / 4 * 3), patience_ms };
            let op = self.ops.get();
            self.ops.set(op + 1);
            match self.take(locks, op, lock, wish).await {
                Ok(Some(guard)) => self.hold(guard, op, lock, wish, &mut dice).await,
                Ok(None) => {}
                Err(()) => return,
            }
            sleep(Duration::from_millis(dice.spread((1, 40)))).await;
        }
    }

    async fn take(&self, locks: &LockClient, op: u64, lock: u64, wish: Wish) -> Result<Option<LockGuard>, ()> {
        let name = format!("campaign/{lock}");
        let mode = if wish.exclusive { Mode::Exclusive } else { Mode::Shared };
        say(&Said::Called { op, session: locks.session().0, at: now(), lock, wish });
        let taken = match wish.patience_ms {
            None => locks.acquire(&name, mode).await,
            Some(ms) => locks.acquire_timeout(&name, mode, Duration::from_millis(ms)).await,
        };
        match taken {
            Ok(guard) => {
                let at = now();
                say(&Said::Granted { op, at, token: guard.token().0, until: valid_until(&guard) });
                Ok(Some(guard))
            }
            Err(error) => {
                say(&Said::NotGranted { op, at: now(), why: error.to_string() });
                match error {
                    AcquireError::Timeout { .. } => Ok(None),
                    AcquireError::SessionLost | AcquireError::Closed => Err(()),
                    other => {
                        say(&Said::Trouble(format!("an acquire was answered '{other}'")));
                        Err(())
                    }
                }
            }
        }
    }

    async fn hold(&self, guard: LockGuard, op: u64, lock: u64, wish: Wish, dice: &mut Dice) {
        let long = dice.chance(MILLION / 15);
        let mut left = Duration::from_millis(if long { dice.between((100, 600)) } else { dice.spread((1, 8)) });
        if wish.exclusive {
            self.add_one(&guard, op, lock, dice.chance(MILLION / 2), left).await;
        } else {
            while !left.is_zero() {
                let slice = left.min(TELL_EVERY);
                sleep(slice).await;
                left -= slice;
                say(&Said::Valid { op, until: valid_until(&guard) });
            }
        }
        say(&Said::Freed { op, at: now() });
        drop(guard);
        say(&Said::Dropped { op, at: now() });
    }

    /// Reads, waits, writes; what keeps others from writing meanwhile is the lock alone. It does not look whether the guard is still
    /// valid: that is the stores' part, by the token or by the time.
    async fn add_one(&self, guard: &LockGuard, op: u64, lock: u64, fenced: bool, mut pause: Duration) {
        let ask = |replace| Ask { op, lock, token: guard.token().0, until: valid_until(guard), fenced, replace };
        let Some(read) = self.ask(ask(None)).await else { return };
        while !pause.is_zero() {
            let slice = pause.min(TELL_EVERY);
            sleep(slice).await;
            pause -= slice;
            say(&Said::Valid { op, until: valid_until(guard) });
        }
        self.ask(ask(Some(read))).await;
    }

    async fn ask(&self, ask: Ask) -> Option<u64> {
        let (answer, answered) = oneshot::channel();
        self.asked.borrow_mut().insert(ask.op, answer);
        say(&Said::Ask(ask));
        answered.await.ok().flatten()
    }
}

/// Zero once the guard is not valid.
fn valid_until(guard: &LockGuard) -> u64 {
    let before = now();
    match guard.valid_for() {
        Duration::ZERO => 0,
        left => before + left.as_nanos() as u64,
    }
}

fn now() -> u64 {
    monotonic().as_nanos() as u64
}

fn say(said: &Said) {
    let line = serde_json::to_string(said).expect("enums of numbers and texts are JSON");
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
