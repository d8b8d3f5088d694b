//! The store with which a cluster begins that is restored from a backup.
//!
//! # Why it is right
//!
//! The new cluster has one member at first, and begins as if that member had stopped with a snapshot: its store holds the state at the op
//! that was asked for, and view 1, in force, which lists this member alone, under a new cluster's id. So the core needs no rule for it. The
//! member proposes view 2, as whoever was primary does when it starts again (S8), and its first entry is the op after the snapshot's. All
//! others come by the rules for new members (S7, S12): they count for nothing before they hold what the restored one holds.
//!
//! To found all members at once, one of them with the state, would not do: were the restored one gone before the others have what it has,
//! they would be a majority that begins at op 1. A view that lists it alone leaves nobody to do so, whatever list the members are
//! configured with.
//!
//! The store is made beside its place and moved there when it is whole. A member that finds half of it would found an empty cluster.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nvm_log::{Options, Outcome, Store};

use super::format;
use super::node::{NodeSettings, StartError};
use super::store::{identity_of, install_with};
use crate::{ClusterId, Control, Identity, Incarnation, Kind, Slot, SnapshotImage, Standing, View, Viewstamp};

/// Makes the store of the first member of a new cluster, which begins after this op with this state. Others are added once it serves.
/// Returns the new cluster's id.
///
/// # Errors
/// The settings do not fit, something is in the way, or the store cannot be written; nothing was overwritten.
pub fn make_restored_store(settings: &NodeSettings, op: u64, state: &[u8]) -> Result<ClusterId, StartError> {
    settings.check()?;
    let refuse = |problem: String| Err(StartError::Settings(problem));
    if settings.durability.is_volatile() {
        return refuse(format!(
            "{} keeps nothing in the data directory: restore into nvm or full-ss",
            settings.durability
        ));
    }
    let own = settings.members.iter().find(|(member, ..)| *member == settings.member);
    let Some((_, address, Kind::Replica)) = own else {
        return refuse(format!("member {} holds no state: restore at a replica", settings.member));
    };
    let dir = &settings.data_dir;
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return refuse(format!("{} is not empty: name a new data directory", dir.display()));
    }
    let made = beside(dir);
    let at = |error| StartError::Store { dir: made.clone(), error };
    // What an attempt left that was cut short. Nothing else has this name.
    Store::remove(&made).map_err(at)?;
    let identity = Identity { member: settings.member, incarnation: Incarnation(rand::random()) };
    let cluster = ClusterId::new(rand::random(), &settings.cluster);
    let view = only_member(identity, cluster, address.to_string());
    let control = Control { founding: None, config: Some(paxos::Durable::after(view)) };
    let options = Options { backend: settings.backend, ring_bytes: settings.ring_bytes, ..Options::default() };
    let image = SnapshotImage::of(Viewstamp { view: 1, op }, state);
    let write = || {
        let mut store = Store::format(&made, &options, identity_of(identity))?;
        install_with(&mut store, &image, false, &format::control_blob(&control))?;
        store.close()
    };
    write().map_err(at)?;
    put_in_place(&made, dir).map_err(|error| {
        let problem = format!("{}: {error}; what was made is in {}", dir.display(), made.display());
        StartError::Settings(problem)
    })?;
    Ok(cluster)
}

/// The highest op that a store tells of, damaged ones included; 0 where there was none. The store must not be open; it is opened for it.
///
/// # Errors
/// There is no store, it is in use, or it cannot be read.
pub fn highest_op(dir: &Path) -> Result<u64, StartError> {
    let at = |error| StartError::Store { dir: dir.to_owned(), error };
    let opened = match Store::open(dir, &Options::default()) {
        Err(nvm_log::Error::OtherBackend { stored, .. }) => {
            Store::open(dir, &Options { backend: stored, ..Options::default() })
        }
        opened => opened,
    };
    let (_, recovery) = opened.map_err(at)?;
    let lost = match &recovery.outcome {
        Outcome::Corrupt { ranges } => ranges.iter().map(|range| *range.end()).max(),
        _ => None,
    };
    let snapshot = recovery.snapshot.as_ref().map(|(meta, _)| meta.op);
    let logged = recovery.frames.last().map(nvm_log::Frame::last_op);
    Ok([Some(recovery.last_op), lost, snapshot, logged].into_iter().flatten().max().unwrap_or_default())
}

fn only_member(identity: Identity, cluster: ClusterId, address: String) -> View {
    let Identity { member, incarnation } = identity;
    let slot = Slot { member, incarnation, address, kind: Kind::Replica, standing: Standing::InSync };
    View { number: 1, parent: 0, cluster, primary: member, slots: vec![slot] }
}

/// On the same file system.
fn beside(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    dir.with_file_name(name)
}

/// The directory may be there if it is empty: then it is replaced.
fn put_in_place(made: &Path, dir: &Path) -> io::Result<()> {
    let dir = std::path::absolute(dir)?;
    fs::rename(made, &dir)?;
    dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemberId;
    use crate::shell::store;
    use crate::shell::store::Contents;

    fn settings(dir: &Path) -> NodeSettings {
        let list =
            (1..=3).map(|id| (MemberId(id), format!("127.0.0.1:{id}").parse().expect("an address"), Kind::Replica));
        let settings = NodeSettings::new(MemberId(2), "new", list.collect(), dir.join("data"));
        NodeSettings { ring_bytes: 8 << 20, ..settings }
    }

    #[test]
    fn a_restored_store_holds_the_state_and_a_view_of_its_own_member_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = settings(dir.path());
        fs::create_dir(&settings.data_dir).expect("empty, as an operator may have made it");
        let cluster = make_restored_store(&settings, 1 << 50, b"state").expect("made");
        assert_eq!(highest_op(&settings.data_dir).expect("readable"), 1 << 50);
        let options = Options { ring_bytes: 8 << 20, ..Options::default() };
        let (opened, contents) = store::open(&settings.data_dir, &options, MemberId(2)).expect("it is whole");
        let Contents::Whole(recovered) = contents else { panic!("damaged") };
        let view = recovered.control.config.expect("a view in force").last;
        assert!(view.is_well_formed() && view.cluster == cluster && cluster.may_be_named("new"));
        assert_eq!(
            (view.number, view.slots.len(), view.lists(MemberId(2), recovered.identity.incarnation)),
            (1, 1, true)
        );
        let image = recovered.snapshot.expect("the state");
        assert_eq!((image.viewstamp, &*image.joined()), (Viewstamp { view: 1, op: 1 << 50 }, &b"state"[..]));
        let in_use = highest_op(&settings.data_dir).expect_err("it is open").to_string();
        assert!(in_use.contains("in use"), "{in_use}");
        drop(opened);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_directory_that_is_not_empty_and_a_mode_without_a_store_are_refused_and_nothing_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = settings(dir.path());
        let volatile = NodeSettings { durability: crate::Durability::EpochSs, ..settings.clone() };
        let refused = make_restored_store(&volatile, 9, b"state").expect_err("in memory").to_string();
        assert!(refused.contains("restore into nvm or full-ss"), "{refused}");
        assert!(!settings.data_dir.exists());
        make_restored_store(&settings, 9, b"state").expect("made");
        let refused = make_restored_store(&settings, 9, b"state").expect_err("it is there").to_string();
        assert!(refused.contains("is not empty"), "{refused}");
        assert_eq!(highest_op(&settings.data_dir).expect("as it was"), 9);
    }

    #[test]
    fn what_an_attempt_left_that_was_cut_short_is_in_nobodys_way() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = settings(dir.path());
        let identity = Identity { member: MemberId(2), incarnation: Incarnation(1) };
        let options = Options { ring_bytes: 8 << 20, ..Options::default() };
        drop(Store::format(&beside(&settings.data_dir), &options, identity_of(identity)).expect("formatted"));
        make_restored_store(&settings, 9, b"state").expect("made");
        assert_eq!(highest_op(&settings.data_dir).expect("readable"), 9);
    }
}
