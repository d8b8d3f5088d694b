//! The list of all members, as an operator writes it: `1=HOST:PORT,2=HOST:PORT,3=HOST:PORT/witness`.
//!
//! No two members of a list have one number or one address; what else has to hold is for [`rsm::NodeSettings::check`].

use std::fmt;
use std::str::FromStr;

use rsm::{Kind, MemberId};
use wire::Endpoint;

/// After a member's address, where it is one.
const WITNESS: &str = "/witness";

/// All members, in the order in which they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberList(pub(crate) Vec<(MemberId, Endpoint, Kind)>);

impl MemberList {
    /// Where the member listens, if it is in the list.
    pub(crate) fn endpoint(&self, id: MemberId) -> Option<&Endpoint> {
        self.0.iter().find(|(member, ..)| *member == id).map(|(_, endpoint, _)| endpoint)
    }

    fn add(&mut self, (id, endpoint, kind): (MemberId, Endpoint, Kind)) -> Result<(), String> {
        if self.endpoint(id).is_some() {
            return Err(format!("member {id} is in the list twice: give each member its own number"));
        }
        if let Some((other, ..)) = self.0.iter().find(|(_, other, _)| *other == endpoint) {
            return Err(format!("members {other} and {id} have the same address {endpoint}: correct one"));
        }
        self.0.push((id, endpoint, kind));
        Ok(())
    }
}

impl FromStr for MemberList {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut members = MemberList(Vec::new());
        list.split(',').map(str::trim).try_for_each(|item| members.add(member(item)?))?;
        Ok(members)
    }
}

fn member(item: &str) -> Result<(MemberId, Endpoint, Kind), String> {
    let Some((id, address)) = item.split_once('=') else {
        return Err(format!("'{item}' is no member: write ID=HOST:PORT, as in 1=127.0.0.1:7101"));
    };
    let number = id.trim().parse().map_err(|_| format!("'{id}' is no member's number: write 1=HOST:PORT"))?;
    let (address, kind) = match address.trim().strip_suffix(WITNESS) {
        Some(address) => (address, Kind::Witness),
        None => (address, Kind::Replica),
    };
    let endpoint = address.trim().parse().map_err(|error| format!("member {number}: {error}"))?;
    Ok((MemberId(number), endpoint, kind))
}

impl fmt::Display for MemberList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (id, endpoint, kind)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let suffix = if *kind == Kind::Witness { WITNESS } else { "" };
            write!(f, "{comma}{id}={endpoint}{suffix}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_prints_as_it_was_written_but_for_blanks() {
        let list: MemberList = "1=a:1, 2 = b:2,3=unix:/run/c/witness".parse().expect("a list");
        assert_eq!(list.to_string(), "1=a:1,2=b:2,3=unix:/run/c/witness");
        assert_eq!(list.0.iter().map(|(.., kind)| *kind).collect::<Vec<_>>()[1..], [Kind::Replica, Kind::Witness]);
    }

    #[test]
    fn a_wrong_list_is_refused_in_one_line_that_says_what_to_write() {
        for (list, expected) in [
            ("", "write ID=HOST:PORT"),
            ("127.0.0.1:1", "write ID=HOST:PORT"),
            ("one=a:1", "write 1=HOST:PORT"),
            ("1=127.0.0.1", "write HOST:PORT"),
            ("1=a:1,1=b:2", "member 1 is in the list twice"),
            ("1=a:1,2=a:1", "members 1 and 2 have the same address"),
            ("1=a:1,", "write ID=HOST:PORT"),
        ] {
            let line = list.parse::<MemberList>().expect_err(list);
            assert!(line.contains(expected) && !line.contains('\n'), "{list}: {line}");
        }
    }
}
