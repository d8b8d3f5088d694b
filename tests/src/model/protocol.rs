//! What a model tells the checker: the members, and what they do.

use std::fmt::Debug;
use std::hash::Hash;

/// How many kinds of bounded things (crashes, commands) a model may count.
pub const COUNTERS: usize = 8;

/// How often each bounded thing has happened.
pub type Spent = [u8; COUNTERS];

/// What the members are, and what they do.
pub trait Protocol {
    /// A member's whole state, disk and process.
    type Local: Clone + Debug;
    /// What members say.
    type Message: Clone + Debug;
    /// What an invariant is about.
    type Fact: Clone + Debug;
    /// What a member does without a message.
    type Stimulus: Copy + Eq + Hash + Debug;

    /// The members' first states, and what is in the soup.
    fn start(&self) -> Start<Self>
    where
        Self: Sized;
    /// How often each bounded thing may happen.
    fn limits(&self) -> Spent;
    /// What this member may do by itself.
    fn stimuli(&self, member: usize, local: &Self::Local, spent: &Spent, out: &mut Vec<Choice<Self::Stimulus>>);
    /// Whether this member may put off its next write (false: it never does; true: it may).
    fn may_hold(&self, member: usize, local: &Self::Local) -> bool;
    /// Does it. `locals` are the actor and then its helpers.
    fn run(
        &self,
        locals: &mut [Self::Local],
        what: Event<'_, Self::Message, Self::Stimulus>,
        held: bool,
    ) -> Effects<Self::Message, Self::Fact>;
    /// Whether a message can never again change anything at its receiver.
    fn is_dead(&self, receiver: &Self::Local, message: &Self::Message) -> bool;
    /// Whether a fact says all that another says, and more: then the other need not be kept.
    fn covers(&self, _strong: &Self::Fact, _weak: &Self::Fact) -> bool {
        false
    }
    /// The invariants.
    fn conflict(&self, facts: &[&Self::Fact]) -> Option<String>;
    /// A member in one line.
    fn describe(&self, local: &Self::Local) -> String;
}

/// What lies in the soup.
#[derive(Clone, Debug)]
pub enum Item<M, F> {
    /// A message to the member with this index.
    Message {
        /// Its receiver.
        to: usize,
        /// What it says.
        message: M,
    },
    /// Something that is true for ever.
    Fact(F),
}

/// Something that a member may do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice<S> {
    /// What.
    pub stimulus: S,
    /// The members that take part in the same stroke, one bit each.
    pub helpers: u16,
}

/// What happens to a member.
#[derive(Debug)]
pub enum Event<'a, M, S> {
    /// A message arrives.
    Message(&'a M),
    /// It acts by itself.
    Own(S),
}

/// What a step brought about.
#[derive(Debug)]
pub struct Effects<M, F> {
    /// New messages and facts.
    pub items: Vec<Item<M, F>>,
    /// What it used up.
    pub cost: Spent,
    /// It leads out of the bounds (or cannot be done): not followed.
    pub is_beyond: bool,
    /// A rule that the members themselves broke.
    pub violation: Option<String>,
}

impl<M, F> Default for Effects<M, F> {
    fn default() -> Self {
        Effects { items: Vec::new(), cost: Spent::default(), is_beyond: false, violation: None }
    }
}

/// Members' first states, and what is in the soup.
pub type Start<P> = (Vec<<P as Protocol>::Local>, Vec<Item<<P as Protocol>::Message, <P as Protocol>::Fact>>);
