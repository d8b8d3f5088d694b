//! The superblock: who the store belongs to and where its parts lie. Written once, when the store is formatted, in two
//! copies in different pages, and never changed; so it has no crash points, and one damaged copy costs nothing.
//!
//! What changes later (the cluster's id, when it becomes known) is in the control record, which is replaced atomically.

use crate::layout::{self, Geometry, PAGE, SUPERBLOCKS, VERSION, checksum, id_at, put, u32_at, u64_at};
use crate::medium::Medium;
use crate::{Backend, Error, Part};

const MAGIC: &[u8; 8] = b"NVM-LOG\n";
/// Bytes under the checksum.
const BYTES: usize = 256;

/// Whose store it is. The numbers mean nothing to this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; all zero until it is known, see [`crate::Store::set_cluster`].
    pub cluster: [u8; 16],
    /// The member within the cluster.
    pub member: u64,
    /// One life of the member's memory: a new store is a new incarnation.
    pub incarnation: [u8; 16],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) identity: Identity,
    pub(crate) salt: u64,
    pub(crate) geometry: Geometry,
    pub(crate) backend: Backend,
    /// The machine's boot when the store was formatted; zero if unknown.
    pub(crate) boot_id: [u8; 16],
}

impl Superblock {
    fn encode(&self) -> [u8; BYTES] {
        let mut page = [0; BYTES];
        put(&mut page, 0, MAGIC);
        put(&mut page, 8, &VERSION.to_le_bytes());
        put(&mut page, 16, &self.salt.to_le_bytes());
        put(&mut page, 24, &self.identity.cluster);
        put(&mut page, 40, &self.identity.member.to_le_bytes());
        put(&mut page, 48, &self.identity.incarnation);
        put(&mut page, 64, &self.geometry.ring_offset.to_le_bytes());
        put(&mut page, 72, &self.geometry.ring_bytes.to_le_bytes());
        page[80] = self.backend.code();
        put(&mut page, 88, &self.boot_id);
        let sum = checksum(self.salt, &page);
        put(&mut page, 12, &sum.to_le_bytes());
        page
    }

    fn decode(page: &[u8; BYTES]) -> Option<Superblock> {
        let salt = u64_at(page, 16);
        let mut summed = *page;
        put(&mut summed, 12, &[0; 4]);
        let whole = &page[..8] == MAGIC && u32_at(page, 8) == VERSION && u32_at(page, 12) == checksum(salt, &summed);
        let geometry = Geometry::for_ring(u64_at(page, 72))?;
        if !whole || geometry.ring_offset != u64_at(page, 64) {
            return None;
        }
        let identity = Identity { cluster: id_at(page, 24), member: u64_at(page, 40), incarnation: id_at(page, 48) };
        let backend = Backend::from_code(page[80])?;
        Some(Superblock { identity, salt, geometry, backend, boot_id: id_at(page, 88) })
    }

    /// Stores both copies.
    pub(crate) fn write(&self, medium: &mut impl Medium) -> Result<(), Error> {
        for at in SUPERBLOCKS {
            medium.write(at, &self.encode()).map_err(Error::io("writing the superblock"))?;
        }
        Ok(())
    }

    /// Reads the first whole copy, and puts a damaged one right from the other. Says whether one was damaged.
    pub(crate) fn read(medium: &mut impl Medium) -> Result<(Superblock, bool), Error> {
        let damaged = |detail| Error::Damaged { part: Part::Superblock, detail };
        if medium.size() < layout::FIXED_END {
            return Err(damaged("the file is too short"));
        }
        let mut pages = [[0; BYTES]; 2];
        for (page, at) in pages.iter_mut().zip(SUPERBLOCKS) {
            medium.read(at, page).map_err(Error::io("reading the superblock"))?;
        }
        let copies = pages.each_ref().map(Superblock::decode);
        let Some(found) = copies[0].or(copies[1]) else {
            let other = pages.iter().find(|page| &page[..8] == MAGIC && u32_at(&page[..], 8) != VERSION);
            return Err(other.map_or(damaged("no copy is whole"), |page| Error::Version {
                found: u32_at(page, 8),
                known: VERSION,
            }));
        };
        if medium.size() < found.geometry.medium_bytes() {
            return Err(damaged("the file is shorter than the superblock says"));
        }
        for (copy, at) in copies.iter().zip(SUPERBLOCKS) {
            if copy.is_none() {
                medium.write(at, &found.encode()).map_err(Error::io("repairing the superblock"))?;
            }
        }
        Ok((found, copies.contains(&None)))
    }
}

const _: () = assert!(BYTES as u64 <= PAGE);
