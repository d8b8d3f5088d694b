//! Scenarios 8 to 16: members die while clients fight for locks.

use rsm::BreakPoint;
use std::time::Duration;

use lock_client::LockClient;

use super::agreement::view;
use super::cluster::Blow;
use super::failure::{Checked, wrong};
use super::stage::{Programs, Stage, Way};

/// For how long a client looks for a primary where there is none.
const NO_PRIMARY_WITHIN: Duration = Duration::from_secs(1);

/// Scenario 8. Nobody dies.
pub(super) async fn nobody_dies(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::stormy(&programs, way, 3).await?;
    stage.serves_without_interruption().await?;
    stage.finish(&view(1, [1])).await
}

/// Scenario 9. A backup dies.
pub(super) async fn backup_dies(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::stormy(&programs, way, 3).await?;
    stage.stop(3).await?;
    stage.serves_without_interruption().await?;
    stage.finish(&view(1, [1])).await
}

/// Scenario 10. A backup dies and comes back.
pub(super) async fn backup_returns(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::stormy(&programs, way, 3).await?;
    stage.stop(3).await?;
    stage.restart(3).await?;
    stage.agrees(&view(1, [1])).await?;
    stage.serves_without_interruption().await?;
    stage.finish(&view(1, [1])).await
}

/// Scenario 11. The primary dies.
pub(super) async fn primary_dies(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::stormy(&programs, way, 3).await?;
    stage.stop(1).await?;
    let expected = view(2, [2, 3]);
    stage.agrees(&expected).await?;
    stage.serves().await?;
    stage.finish(&expected).await
}

/// Scenario 12. The primary dies when the first backup has acknowledged: what is held by a majority is not lost, nor done twice when
/// clients send it again.
pub(super) async fn primary_dies_after_first_ack(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::stormy(&programs, way, 3).await?;
    stage.cluster.arm(1, BreakPoint::AfterFirstAck)?;
    stage.cluster.died_at_break_point(&[1]).await?;
    let expected = if way.pause.is_zero() {
        // It may be back before the others have found each other, and be primary again: of the next view.
        stage.restart(1).await?;
        view(2, [1, 2, 3])
    } else {
        stage.agrees(&view(2, [2, 3])).await?;
        stage.restart(1).await?;
        view(2, [2, 3])
    };
    stage.agrees(&expected).await?;
    stage.serves().await?;
    stage.finish(&expected).await
}

/// Scenario 13. A backup dies when an entry is durable and not acknowledged.
pub(super) async fn backup_dies_before_ack(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::stormy(&programs, way, 3).await?;
    stage.cluster.arm(3, BreakPoint::BeforeAck)?;
    stage.cluster.died_at_break_point(&[3]).await?;
    stage.serves().await?;
    stage.restart(3).await?;
    stage.serves_without_interruption().await?;
    stage.finish(&view(1, [1])).await
}

/// Scenario 14. Of five, a backup dies before it acknowledges, the primary after it, and another backup when it enters the next view.
pub(super) async fn backup_dies_entering(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::stormy(&programs, way, 5).await?;
    stage.cluster.arm(5, BreakPoint::BeforeAck)?;
    stage.cluster.died_at_break_point(&[5]).await?;
    stage.serves_without_interruption().await?;
    stage.restart(5).await?;
    stage.agrees(&view(1, [1])).await?;

    stage.cluster.arm(4, BreakPoint::OnEnterView)?;
    stage.stop(1).await?;
    stage.cluster.died_at_break_point(&[4]).await?;
    // Members 2, 3 and 5 are a majority. Had member 4 been the new primary, they had to change the view again.
    let named = stage.cluster.primary_of(2).await?;
    let number = if named.is_none_or(|primary| primary == 4) { 3 } else { 2 };
    let agreed = stage.agrees(&view(number, [2, 3, 5])).await?;
    stage.serves().await?;
    stage.restart(1).await?;
    stage.restart(4).await?;
    stage.agrees(&view(agreed.view, [agreed.primary])).await?;
    stage.serves().await?;
    stage.finish(&view(agreed.view, [agreed.primary])).await
}

/// Scenario 15. Of five, the primary hands over, and its successor dies when it enters its view.
pub(super) async fn next_primary_dies_entering(programs: Programs, way: Way) -> Checked<()> {
    // Without load until then, so that the hand-over names the lowest of those that are equally far.
    let mut stage = Stage::quiet(&programs, way, 5).await?;
    stage.serves().await?;
    stage.cluster.arm(2, BreakPoint::OnEnterView)?;
    stage.cluster.settle(&view(1, [1])).await?;
    stage.cluster.send(1, Blow::Term)?;
    stage.cluster.died_at_break_point(&[2]).await?;
    if way.blow == Blow::Kill {
        // A process that is gone already has done what it could.
        drop(stage.cluster.send(1, Blow::Kill));
    }
    stage.cluster.ended(1).await?;
    let agreed = stage.agrees(&view(3, [3, 4, 5])).await?;
    let expected = view(3, [agreed.primary]);
    stage.serves().await?;
    stage.rise().await?;
    stage.restart(1).await?;
    stage.restart(2).await?;
    stage.agrees(&expected).await?;
    stage.serves().await?;
    stage.finish(&expected).await
}

/// Scenario 16. The primary is cut off from the others amid requests, and heard again.
pub(super) async fn primary_is_cut_off(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::stormy(&programs, way, 3).await?;
    stage.cluster.arm(1, BreakPoint::Partition)?;
    // Whoever knows only the old primary gets nothing from it, from the first moment on.
    let lonely = LockClient::builder([stage.cluster.endpoint(1)]).name("lonely").connect_timeout(NO_PRIMARY_WITHIN);
    if let Ok(client) = lonely.connect().await {
        return wrong(format!("a primary without the others opened session {}", client.session()));
    }
    let agreed = stage.cluster.agree_among(&[2, 3], &view(2, [2, 3])).await?;
    stage.serves().await?;
    let statuses = stage.cluster.answering().await?;
    let old = &statuses[&1];
    if old.serving || old.view.as_ref().is_none_or(|view| view.id != 1) {
        return wrong(format!("the member that is cut off should not serve, and know of no new view: {old:?}"));
    }
    stage.cluster.clear(1)?;
    let expected = view(2, [agreed.primary]);
    stage.agrees(&expected).await?;
    stage.serves().await?;
    stage.finish(&expected).await
}
