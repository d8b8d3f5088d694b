//! Scenarios 0 to 7: views, without load.
//!
//! What the labs test with views that shrink and grow is tested here with views that do not: nobody is dropped for being down.

use rsm::BreakPoint;

use super::agreement::view;
use super::cluster::Blow;
use super::failure::{Checked, wrong};
use super::stage::{Programs, Stage, Way};

/// Scenario 0. Members are started.
pub(super) async fn founding(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::quiet(&programs, way, 3).await?;
    stage.serves().await?;
    stage.finish(&view(1, [1])).await
}

/// Scenario 1. A backup dies.
pub(super) async fn backup_dies(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::quiet(&programs, way, 3).await?;
    stage.stop(3).await?;
    stage.serves().await?;
    stage.cluster.keeps_view(1).await?;
    stage.finish(&view(1, [1])).await
}

/// Scenario 2. The primary dies.
pub(super) async fn primary_dies(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::quiet(&programs, way, 3).await?;
    stage.stop(1).await?;
    let expected = view(2, [2, 3]);
    stage.agrees(&expected).await?;
    stage.serves().await?;
    stage.finish(&expected).await
}

/// Scenario 3. A backup dies and comes back.
pub(super) async fn backup_returns(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::quiet(&programs, way, 3).await?;
    stage.stop(3).await?;
    stage.serves().await?;
    stage.restart(3).await?;
    stage.agrees(&view(1, [1])).await?;
    stage.cluster.keeps_view(1).await?;
    stage.finish(&view(1, [1])).await
}

/// Scenario 4. The majority is lost, found, lost, and found again with others.
pub(super) async fn majority_is_lost_twice(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::quiet(&programs, way, 3).await?;
    stage.stop(3).await?;
    stage.serves().await?;
    stage.stop(2).await?;
    stage.stands_still().await?;
    // The primary has stepped down meanwhile; it never resumes its view.
    stage.restart(3).await?;
    stage.agrees(&view(2, [1, 3])).await?;
    stage.serves().await?;
    stage.stop(3).await?;
    stage.stands_still().await?;
    // Had member 3 been primary, it may have handed over before it stopped.
    let now = stage.cluster.answering().await?;
    let last = now[&1].view.as_ref().map_or(0, |view| view.id);
    stage.restart(2).await?;
    let agreed = stage.agrees(&view(last + 1, [1, 2])).await?;
    stage.serves().await?;
    stage.restart(3).await?;
    stage.finish(&view(agreed.view, [agreed.primary])).await
}

/// Scenario 5. A proposer dies between prepare and accept, with its promises and without a vote.
pub(super) async fn proposer_dies_after_prepare(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::quiet(&programs, way, 3).await?;
    if way.blow == Blow::Term {
        // Member 1 proposes itself, because it hands over; member 2 has promised.
        stage.stop(3).await?;
        stage.cluster.arm(1, BreakPoint::BetweenPrepareAndAccept)?;
        stage.cluster.send(1, Blow::Term)?;
        stage.cluster.died_at_break_point(&[1]).await?;
        stage.stands_still().await?;
        stage.restart(3).await?;
    } else {
        // Members 2 and 3 propose, because the primary is dead; whoever comes so far dies.
        stage.cluster.arm(2, BreakPoint::BetweenPrepareAndAccept)?;
        stage.cluster.arm(3, BreakPoint::BetweenPrepareAndAccept)?;
        stage.stop(1).await?;
        let dead = stage.cluster.died_at_break_point(&[2, 3]).await?;
        let survivor = 5 - dead;
        stage.cluster.clear(survivor)?;
        stage.stands_still().await?;
        stage.restart(dead).await?;
    }
    let agreed = stage.agrees(&view(2, [2, 3])).await?;
    stage.serves().await?;
    stage.restart(1).await?;
    stage.finish(&view(2, [agreed.primary])).await
}

/// Scenario 6. A proposer dies between accept and decide: what was voted for is what is decided.
pub(super) async fn proposer_dies_after_accept(programs: Programs, way: Way) -> Checked<()> {
    voted_value_is_decided(&programs, way, false).await
}

/// Scenario 7. The same, and all voters are started again before a majority is there.
pub(super) async fn voters_restart_after_accept(programs: Programs, way: Way) -> Checked<()> {
    voted_value_is_decided(&programs, way, true).await
}

/// Member 1 hands over while member 2 is down, so its proposal names member 3: of those that are well, none is further, and it has
/// the lowest number. A proposal that forgot it would more often than not name member 2, which is the first to stand.
async fn voted_value_is_decided(programs: &Programs, way: Way, restart_voters: bool) -> Checked<()> {
    let mut stage = Stage::quiet(programs, way, 4).await?;
    stage.stop(2).await?;
    stage.serves().await?;
    stage.cluster.arm(1, BreakPoint::BetweenAcceptAndDecide)?;
    stage.cluster.settle(&view(1, [1])).await?;
    stage.cluster.send(1, Blow::Term)?;
    stage.cluster.died_at_break_point(&[1]).await?;
    stage.stands_still().await?;
    if restart_voters {
        stage.stop(4).await?;
        stage.stop(3).await?;
        stage.restart(3).await?;
        stage.restart(4).await?;
        stage.stands_still().await?;
        let lasts = stage.cluster.answering().await?;
        if lasts.values().any(|status| status.view.as_ref().is_none_or(|view| view.id != 1)) {
            return wrong(format!("a view was formed by two of four, or forgotten: {lasts:?}"));
        }
    }
    stage.restart(2).await?;
    let expected = view(2, [3]);
    stage.agrees(&expected).await?;
    stage.serves().await?;
    stage.restart(1).await?;
    stage.finish(&expected).await
}
