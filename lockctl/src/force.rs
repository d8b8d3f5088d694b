//! Ending a tenure by force.

use std::time::Duration;

use lock_client::{FencingToken, ForceRelease, ForcedTenure, LockName};
use serde::Serialize;

use crate::arguments::Common;
use crate::dispatch::{close, connect_to_ask, print, print_json, say};
use crate::failure::{Failure, exit, seconds};

/// What was forced, for programs.
#[derive(Serialize)]
struct Done<'a> {
    name: &'a LockName,
    token: FencingToken,
    ended: &'a [ForcedTenure],
}

/// `lockctl force-release`.
pub(crate) async fn release(
    name: &LockName,
    token: u64,
    now: bool,
    without_recovery: bool,
    common: &Common,
) -> Result<u8, Failure> {
    let token = FencingToken(token);
    let client = connect_to_ask(common).await?;
    let ended = match without_recovery {
        true => client.force_kept(name.as_str(), token).await,
        false => client.force_release(ForceRelease { name: name.clone(), token, now }).await,
    };
    close(&client).await;
    let ended = ended?;
    if common.json {
        print_json(&Done { name, token, ended: &ended })?;
    }
    if ended.is_empty() {
        let who = if without_recovery { "no dead session keeps" } else { "nobody holds" };
        let line = format!("{who} '{name}' with token {token}; 'lockctl inspect {name}' shows who does");
        return Err(Failure::new(exit::NOT_HELD, line));
    }
    if without_recovery {
        say("what the dead session had not flushed under this lock may be lost");
    } else if ended.iter().any(|tenure| tenure.withheld_ms.is_none()) {
        say("the holder may not know yet: until its lease has ended, only the token tells it from the next one");
    }
    if !common.json {
        print(&text(name, &ended));
    }
    Ok(exit::OK)
}

/// A line for each tenure.
fn text(name: &LockName, ended: &[ForcedTenure]) -> String {
    let line = |tenure: &ForcedTenure| match tenure.withheld_ms {
        Some(ms) => format!(
            "{name}: session {} has lost it; others may have it when that session confirms, after {} at the latest\n",
            tenure.session,
            seconds(Duration::from_millis(ms))
        ),
        None => format!("{name}: session {} has lost it; others may have it now\n", tenure.session),
    };
    ended.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use lock_client::SessionId;

    use super::*;

    #[test]
    fn each_tenure_has_a_line_that_says_when_others_may_have_the_lock() {
        let name = LockName::new("a").expect("a name");
        let tenure = |withheld_ms| ForcedTenure { session: SessionId(3), withheld_ms };
        assert_eq!(
            text(&name, &[tenure(Some(2_200)), tenure(None)]),
            "a: session 3 has lost it; others may have it when that session confirms, after 2.2 s at the latest\n\
             a: session 3 has lost it; others may have it now\n"
        );
        let done = Done { name: &name, token: FencingToken(7), ended: &[tenure(Some(1))] };
        let json = serde_json::to_string(&done).expect("plain data");
        assert_eq!(json, r#"{"name":"a","token":7,"ended":[{"session":3,"withheld_ms":1}]}"#);
    }
}
